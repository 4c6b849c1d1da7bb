"""The pieces that the layouts are made of, each on two ranks against the same thing on one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, nn

from engine.contract.layout import Layout
from engine.contract.shape import ModelShape
from engine.data.batches import Batches
from engine.model.attention import CausalAttention
from engine.model.build import build_model
from engine.model.criterion import cross_entropy_sums
from engine.parallel.apply import NetworkBuilder
from engine.parallel.context import GatheredAttention
from engine.parallel.dtensors import whole
from engine.parallel.gradients import Gradients
from engine.parallel.mesh import make_mesh, own_positions
from engine.parallel.network import Network
from engine.parallel.precision import Precision
from engine.parallel.tensor import VocabularyParallel
from engine.training.stepbatches import StepBatches
from tests.engine.parallel.conftest import SEQUENCE, shape_of
from tests.engine.parallel.test_levers import TWO, layout
from tests.engine.processes import run_ranks

CPU = torch.device("cpu")
SPLITS = {**TWO, "copies": layout(2, dp_replicate=2), "context": layout(2, cp=2)}


def random(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_ranks_of_a_sequence_have_each_position_once_and_equal_work(ranks: int) -> None:
    own = [own_positions(16, rank, ranks, CPU) for rank in range(ranks)]
    assert sorted(torch.cat(own).tolist()) == list(range(16))
    assert all(torch.equal(positions, positions.sort().values) for positions in own)
    assert len({int(positions.sum()) for positions in own}) == 1


def test_each_data_rank_reads_its_share_of_every_micro_batch() -> None:
    tokens = np.arange(1000, dtype=np.uint16)
    uneven = Layout(
        strategy="ddp", accelerator="cpu", device_indices=(0, 1), precision="fp32", dp_replicate=2,
        micro_batch=3, micro_batches=(3, 1), accumulation=2,
    )  # fmt: skip
    batches, positions = Batches(tokens, 8, seed=0), own_positions(8, 1, 2, CPU)
    readers = [StepBatches(batches, uneven, rank, CPU, positions) for rank in range(2)]
    assert readers[0].indices(40) == [40, 41, 42, 44, 45, 46]
    assert readers[1].indices(40) == [43, 47]
    for reader in readers:
        found = list(reader.step(40))
        rows = torch.from_numpy(batches.batch(reader.indices(40)))
        assert torch.equal(torch.cat([pair[0] for pair in found]), rows[:, positions])
        assert torch.equal(torch.cat([pair[1] for pair in found]), rows[:, positions + 1])


def attend(heads: int, kv_heads: int) -> float:
    """The greatest difference of results and gradients from plain attention over the whole sequence."""
    full = [random(2, count, SEQUENCE, 8, seed=number) for number, count in enumerate((heads, kv_heads, kv_heads))]
    weights = random(2, heads, SEQUENCE, 8, seed=9)
    for tensor in full:
        tensor.requires_grad_()
    expected = CausalAttention()(*full, 0.0)
    (expected * weights).sum().backward()
    mine = own_positions(SEQUENCE, distributed.get_rank(), 2, CPU)
    parts = [tensor.detach()[:, :, mine].requires_grad_() for tensor in full]
    group = distributed.group.WORLD
    assert group is not None
    found = GatheredAttention(group)(*parts, 0.0)
    (found * weights[:, :, mine]).sum().backward()
    pairs = [(found, expected[:, :, mine])]
    for part, tensor in zip(parts, full, strict=True):
        assert part.grad is not None
        assert tensor.grad is not None
        pairs.append((part.grad, tensor.grad[:, :, mine]))
    return max(float((ours - theirs).abs().max()) for ours, theirs in pairs)


def score_split() -> float:
    """The greatest difference of sums and gradients from those of whole logits."""
    rank, group = distributed.get_rank(), distributed.group.WORLD
    assert group is not None
    targets = torch.arange(12) * 3 % 20
    differences = []
    for smoothing in (0.0, 0.1):
        logits = (3 * random(12, 20)).requires_grad_()
        expected = cross_entropy_sums(logits, targets, smoothing)
        (expected[0] * 0.5).backward()
        part = logits.detach()[:, 10 * rank : 10 * rank + 10].requires_grad_()
        found = VocabularyParallel(group)(part, targets, smoothing)
        (found[0] * 0.5).backward()
        assert part.grad is not None
        assert logits.grad is not None
        differences += [(found - expected).abs().max(), (part.grad - logits.grad[:, 10 * rank :][:, :10]).abs().max()]
    return max(float(value) for value in differences)


def network(shape: ModelShape, chosen: Layout) -> tuple[Network, Gradients]:
    """This rank's part under ``chosen``."""
    mesh = make_mesh(chosen, "cpu", tied=shape.tied_embeddings)
    built = NetworkBuilder(
        shape=shape, layout=chosen, mesh=mesh, device=CPU, precision=Precision.of(chosen), seed=3,
        sequence_length=SEQUENCE,
    ).build()  # fmt: skip
    return built, Gradients(built.parts, mesh, shape.tied_embeddings)


def first_weights(shape: ModelShape, chosen: Layout) -> list[str]:
    """The names of this rank's parameters whose values are not those of the whole model."""
    expected = dict(build_model(shape, seed=3).named_parameters())
    built, _ = network(shape, chosen)
    found = [pair for part in built.parts for pair in part.named_parameters()]
    tied = {"head.weight": "embedding.weight"} if shape.tied_embeddings else {}
    return [name for name, value in found if not torch.equal(whole(value), expected[tied.get(name, name)])]


def clipped(shape: ModelShape, chosen: Layout) -> tuple[float, float]:
    """The norm of all gradients, and that after they were clipped to 0.5, where each gradient is all 2."""
    built, gradients = network(shape, chosen)
    for part in built.parts:
        _set_gradients(part, 2.0)
    if chosen.pp > 1 and shape.tied_embeddings:
        # Both ends add what they have of the shared table.
        for part in built.parts:
            for name, parameter in part.named_parameters():
                if name in {"embedding.weight", "head.weight"}:
                    parameter.grad = torch.ones_like(parameter)
    gradients.settle()
    before = gradients.norm()
    gradients.clip(before, 0.5)
    return float(before), float(gradients.norm())


def _set_gradients(part: nn.Module, value: float) -> None:
    for parameter in part.parameters():
        parameter.grad = torch.full_like(parameter, value)


SHAPES = {tied: shape_of(f"model.tied_embeddings={str(tied).lower()}") for tied in (True, False)}
CASES = [(name, tied) for name in SPLITS for tied in SHAPES]


class Measured(NamedTuple):
    """What one rank found."""

    attention: dict[int, float]
    """By the number of key/value heads, see :func:`attend`."""
    loss: float
    weights: dict[tuple[str, bool], list[str]]
    """By layout and whether the embeddings are tied, see :func:`first_weights`."""
    norms: dict[tuple[str, bool], tuple[float, float]]
    """Likewise, see :func:`clipped`."""


def measure() -> Measured:
    return Measured(
        {kv_heads: attend(4, kv_heads) for kv_heads in (4, 2)},
        score_split(),
        {case: first_weights(SHAPES[case[1]], SPLITS[case[0]]) for case in CASES},
        {case: clipped(SHAPES[case[1]], SPLITS[case[0]]) for case in CASES},
    )


@pytest.fixture(scope="module")
def measured() -> list[Measured]:
    """By rank; the processes take longer to start than all of it."""
    return run_ranks(2, measure)


def test_gathered_attention_is_attention_over_the_whole_sequence(measured) -> None:
    assert all(found < 1e-5 for rank in measured for found in rank.attention.values())


def test_a_split_vocabulary_scores_as_the_whole_one(measured) -> None:
    assert max(rank.loss for rank in measured) < 1e-4


@pytest.mark.parametrize(("name", "tied"), CASES)
def test_first_weights_and_the_norm_of_gradients_are_those_of_one_process(measured, name: str, tied: bool) -> None:
    count = sum(parameter.numel() for parameter in build_model(SHAPES[tied], seed=None, device="meta").parameters())
    for rank in measured:
        assert rank.weights[name, tied] == []
        before, after = rank.norms[name, tied]
        assert before == pytest.approx(2 * count**0.5, rel=1e-5)
        assert after == pytest.approx(0.5, rel=1e-4)
