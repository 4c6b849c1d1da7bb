"""Activation checkpointing: the same gradients from fewer kept bytes."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from engine.contract.presets import resolve_shape
from engine.contract.shape import ModelShape
from engine.contract.spec import ModelSpec
from engine.model.build import build_model
from engine.model.decoder import Decoder
from engine.parallel.dtensors import whole
from engine.parallel.recompute import apply_checkpointing
from engine.parallel.tensor import apply_tensor_parallel
from tests.engine.processes import run_ranks

MODES = ("none", "selective", "full")
LENGTH = 64


def shape(preset: str = "llama-1m", layers: int = 4, **dimensions: object) -> ModelShape:
    spec = ModelSpec(preset=preset, layers=layers, hidden=64, heads=4, **dimensions)
    return resolve_shape(spec, vocabulary=64, sequence_length=LENGTH)


def tokens() -> Tensor:
    return torch.randint(64, (2, LENGTH + 1), generator=torch.Generator().manual_seed(1))


def loss(model: Decoder) -> Tensor:
    torch.manual_seed(7)  # what dropout draws
    batch = tokens()
    result: Tensor = model(batch[:, :-1], targets=batch[:, 1:])[0]
    return result


def gradients(model: Decoder) -> dict[str, Tensor]:
    loss(model).backward()
    found = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        found[name] = whole(parameter.grad)
    return found


def kept_bytes(model: Decoder) -> int:
    """What the forward pass allocates and does not free."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        value = loss(model)
    assert value.requires_grad
    events = record.profiler.kineto_results.events()
    return sum(event.nbytes() for event in events if event.name() == "[memory]")


def checkpointed(model: ModelShape, mode: str, every: int = 1) -> Decoder:
    part = build_model(model, seed=3)
    assert isinstance(part, Decoder)
    apply_checkpointing(part, mode, every)
    return part


@pytest.mark.parametrize("preset", ["llama-1m", "gpt2-1m"])
@pytest.mark.parametrize("sets", [None, 2])
@pytest.mark.parametrize("mode", ["selective", "full"])
def test_gradients_are_those_without_and_names_stay(preset: str, sets: int | None, mode: str) -> None:
    model = shape(preset, dropout=0.1, layer_groups=sets)
    expected, found = gradients(checkpointed(model, "none")), gradients(checkpointed(model, mode))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


def test_less_is_kept_the_more_is_recomputed() -> None:
    model = shape()
    kept = {mode: kept_bytes(checkpointed(model, mode)) for mode in MODES}
    assert kept["full"] < 0.6 * kept["selective"] < 0.6 * 0.8 * kept["none"], kept
    halves = {mode: kept_bytes(checkpointed(model, mode, every=2)) for mode in MODES}
    for mode in ("selective", "full"):
        assert halves[mode] == pytest.approx((kept["none"] + kept[mode]) / 2, rel=0.05)
    assert halves["none"] == kept["none"]


class Executed(TorchDispatchMode):
    """Counts the operators that are executed: what a checkpoint has kept does not come here again."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_matrix_products_are_computed_once_under_selective_and_again_under_full() -> None:
    counts = {}
    for mode in MODES:
        model = checkpointed(shape(), mode)
        with Executed() as executed:
            loss(model).backward()
        counts[mode] = executed.counts
    attention = "_scaled_dot_product_flash_attention_for_cpu"
    assert [counts[mode][attention] for mode in MODES] == [4, 4, 8]
    assert counts["selective"]["mm"] == counts["none"]["mm"]
    # The last product of a layer is needed by nobody in the backward pass: recomputation stops before it.
    assert counts["full"]["mm"] == counts["none"]["mm"] + 4 * 6
    assert [counts[mode]["silu"] for mode in MODES] == [4, 8, 8]


def test_without_gradients_nothing_changes() -> None:
    model = checkpointed(shape(), "full").eval()
    with torch.no_grad():
        whole_pass = model(tokens())
        cache = model.new_cache(LENGTH + 1)
        pieces = [model(piece, cache) for piece in tokens().split(13, dim=1)]
    torch.testing.assert_close(pieces[-1][:, -1], whole_pass[:, -1])


def test_an_lstm_is_left_alone() -> None:
    spec = ModelSpec(preset="lstm-1m", hidden=16)
    model = build_model(resolve_shape(spec, vocabulary=9, sequence_length=4), seed=1)
    before = model.forward
    apply_checkpointing(model, "full")
    assert model.forward == before


@pytest.mark.parametrize("mode", ["selective", "full"])
@pytest.mark.parametrize("whole_part", [False, True])
def test_compiled_layers_recompute(mode: str, whole_part: bool) -> None:
    model = shape(layers=2)
    expected = gradients(checkpointed(model, "none"))
    part = checkpointed(model, mode)
    for module in [part] if whole_part else part.layers.values():
        module.compile(backend="aot_eager", fullgraph=True)
    for name, value in gradients(part).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)


def split(kind: str, mode: str) -> Decoder:
    part = checkpointed(shape(layers=2), mode)
    mesh = init_device_mesh("cpu", (2,))
    if kind == "tensor":
        part.positions = torch.arange(LENGTH)
        apply_tensor_parallel(part, mesh)
    else:
        for unit in (*part.layers.values(), part):
            fully_shard(unit, mesh=mesh, reshard_after_forward=True)
    return part


def largest_difference(kind: str) -> dict[str, float]:
    """On one of two ranks: between gradients with and without recomputation."""
    expected = gradients(split(kind, "none"))
    differences = {}
    for mode in ("selective", "full"):
        found = gradients(split(kind, mode))
        assert found.keys() == expected.keys()
        differences[mode] = max(float((found[name] - value).abs().max()) for name, value in expected.items())
    assert max(float(value.abs().max()) for value in expected.values()) > 0.1
    return differences


@pytest.mark.parametrize("kind", ["tensor", "fsdp"])
def test_checkpointed_layers_may_be_split(kind: str) -> None:
    for differences in run_ranks(2, largest_difference, kind):
        assert max(differences.values()) < 1e-5
