"""Every optimiser, over parameters that are split in every way: the update is the one that one device makes."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from engine.contract.spec import OptimSpec
from engine.parallel.dtensors import like, part_of, shard, whole
from engine.training.optimiser import build_optimiser, set_learning_rate
from tests.engine.processes import run_ranks

ALGORITHMS = ("sgd", "adam", "adamw", "adafactor", "muon")
CPU = torch.device("cpu")
STEPS = 3


class Network(nn.Module):
    """Rows that no number of ranks divides, and a matrix with fewer rows than there are ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 6)
        self.layers = nn.ModuleDict({"0": nn.Linear(6, 10), "1": nn.Linear(10, 5), "2": nn.Linear(5, 3)})
        self.norm = nn.LayerNorm(3)
        self.head = nn.Linear(3, 7, bias=False)


@cache
def mesh_of(*sizes: int) -> DeviceMesh:
    """Process groups are made once on each rank, which is what takes the time."""
    return init_device_mesh("cpu", sizes, mesh_dim_names=("outer", "inner")[-len(sizes) :])


def network() -> Network:
    torch.manual_seed(0)
    return Network()


def split_tensor_parallel(model: Network, mesh: DeviceMesh) -> None:
    parallelize_module(model, mesh, {"layers.0": ColwiseParallel(), "layers.1": RowwiseParallel()})


def split_fsdp(ranks: int) -> Network:
    model = network()
    mesh = mesh_of(ranks)
    fully_shard(model.layers["0"], mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def split_tensor(ranks: int) -> Network:
    model = network()
    split_tensor_parallel(model, mesh_of(ranks))
    return model


def split_both(ranks: int) -> Network:
    model = network()
    mesh = mesh_of(ranks // 2, 2)
    split_tensor_parallel(model, mesh["inner"])
    fully_shard(model, mesh=mesh["outer"])
    return model


def split_hybrid(ranks: int) -> Network:
    model = network()
    fully_shard(model, mesh=mesh_of(2, ranks // 2))
    return model


def split_mixed(ranks: int) -> Network:
    """Plain tensors, tensor-parallel and sharded ones, each on a mesh of its own."""
    model = network()
    mesh = mesh_of(ranks // 2, 2)
    split_tensor_parallel(model, mesh["inner"])
    fully_shard(model.head, mesh=mesh["outer"])
    return model


LAYOUTS = {
    "fsdp": split_fsdp,
    "tensor": split_tensor,
    "fsdp x tensor": split_both,
    "hsdp": split_hybrid,
    "mixed": split_mixed,
}


def gradients(model: nn.Module, step: int) -> dict[str, Tensor]:
    """The same on every rank and for every layout."""
    generator = torch.Generator().manual_seed(100 + step)
    return {name: torch.randn(value.shape, generator=generator) for name, value in model.named_parameters()}


def update(model: nn.Module, name: str) -> torch.optim.Optimizer:
    """Some updates of ``model``, halfway through which its optimiser is replaced by one that loads its state."""
    optim = OptimSpec(name=name, weight_decay=0.2, momentum=0.8, nesterov=True)
    optimiser = build_optimiser([model], optim, CPU)
    for step in range(STEPS):
        set_learning_rate(optimiser, 0.02 / (1 + step))
        for key, full in gradients(model, step).items():
            parameter = model.get_parameter(key)
            parameter.grad = like(parameter, part_of(full, parameter).clone())
        optimiser.step()
        if step == 1:
            saved = copy.deepcopy(optimiser.state_dict())
            optimiser = build_optimiser([model], optim, CPU)
            optimiser.load_state_dict(saved)
    return optimiser


def compare(ranks: int, layouts: tuple[str, ...]) -> dict[tuple[str, str], float]:
    """On a rank: the largest difference from one device, by layout and algorithm, and what the state is made of."""
    differences = {}
    for name in ALGORITHMS:
        reference = network()
        reference_state = update(reference, name).state
        for layout in layouts:
            model = LAYOUTS[layout](ranks)
            state = update(model, name).state
            worst = 0.0
            for key, parameter in model.named_parameters():
                expected = reference.get_parameter(key)
                worst = max(worst, float((whole(parameter.detach()) - expected).abs().max()))
                assert state[parameter].keys() == reference_state[expected].keys()
                for what, value in state[parameter].items():
                    theirs = reference_state[expected][what]
                    if isinstance(parameter, DTensor) and value.shape == parameter.shape and what != "variance":
                        assert isinstance(value, DTensor)
                        assert value.placements == parameter.placements
                        assert value.device_mesh == parameter.device_mesh
                    else:
                        assert not isinstance(value, DTensor)
                    worst = max(worst, float((whole(value) - theirs).abs().max()))
            differences[layout, name] = worst
    return differences


@pytest.mark.parametrize(
    ("ranks", "layouts"), [(2, ("fsdp", "tensor")), (4, ("fsdp", "fsdp x tensor", "hsdp", "mixed"))]
)
def test_a_sharded_update_is_that_of_one_device(ranks: int, layouts: tuple[str, ...]) -> None:
    found = run_ranks(ranks, compare, ranks, layouts)
    for differences in found:
        assert set(differences) == {(layout, name) for layout in layouts for name in ALGORITHMS}
        assert max(differences.values()) < 1e-5, differences


def round_trips() -> list[tuple[int, ...]]:
    """On one of four ranks: whole and part are each other's inverse; the local sizes of what was split."""
    mesh = mesh_of(2, 2)
    full = torch.arange(3.0 * 7).view(3, 7)
    sizes = []
    for placements in (
        (Shard(0), Shard(0)), (Shard(0), Shard(1)), (Shard(1), Shard(0)), (Replicate(), Shard(1)), (Shard(1), Shard(1)),
        (Replicate(), Replicate()),
    ):  # fmt: skip
        split = distribute_tensor(full, mesh, placements)
        assert torch.equal(whole(split), full)
        assert torch.equal(part_of(full, split), split.to_local())
        assert torch.equal(whole(like(split, shard(split) * 2)), full * 2)
        sizes.append(tuple(shard(split).shape))
    assert whole(full) is full
    assert part_of(full, full) is full
    return sizes


def test_what_is_gathered_is_what_was_split() -> None:
    sizes = run_ranks(4, round_trips)
    assert (0, 7) in [rank[0] for rank in sizes]  # three rows over four ranks: one has none
    assert all(rank[-1] == (3, 7) for rank in sizes)


def partial_gradient(name: str) -> bool:
    """On one of two ranks: a gradient that is a sum over the ranks yet to be made is made before it is used."""
    mesh = mesh_of(2)
    whole_gradient = torch.tensor([[3.0, -1.0], [2.0, 4.0]])
    parameters = nn.ParameterList([distribute_tensor(torch.ones(2, 2), mesh, [Replicate()])])
    parameters[0].grad = DTensor.from_local(whole_gradient / 2, mesh, [Partial()], run_check=False)
    expected = nn.ParameterList([torch.ones(2, 2)])
    expected[0].grad = whole_gradient
    for one in (parameters, expected):
        build_optimiser(one, OptimSpec(name=name), CPU).step()
    return torch.allclose(whole(parameters[0].detach()), expected[0])


@pytest.mark.parametrize("name", ["sgd", "muon"])
def test_partial_gradients_are_summed_first(name: str) -> None:
    assert run_ranks(2, partial_gradient, name) == [True, True]
