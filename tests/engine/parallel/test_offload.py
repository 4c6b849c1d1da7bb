"""State on the host gives the updates that state on the device gives, whole or split."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from engine.contract.errors import RunError
from engine.contract.spec import OptimSpec
from engine.parallel.dtensors import like, part_of, whole
from engine.training import offload
from engine.training.offload import OffloadedOptimizer, pieces
from engine.training.optimiser import build_optimiser
from tests.engine.processes import run_ranks

CPU = torch.device("cpu")
NAMES = ("sgd", "adam", "adamw")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.Linear(10, 3), nn.LayerNorm(3))


def train(model: nn.Module, name: str, *, offloaded: bool) -> torch.optim.Optimizer:
    """Updates from fixed gradients; before the last, state goes through ``state_dict`` to a new optimiser."""
    optim = OptimSpec(name=name, weight_decay=0.2, momentum=0.8)
    optimiser = build_optimiser([model], optim, CPU, offload=offloaded)
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        for parameter in model.parameters():
            full = torch.randn(parameter.shape, generator=generator).to(parameter.device)
            parameter.grad = like(parameter, part_of(full, parameter).clone())
        optimiser.step()
        if step == 1:
            saved = copy.deepcopy(optimiser.state_dict())
            optimiser = build_optimiser([model], optim, CPU, offload=offloaded)
            optimiser.load_state_dict(saved)
    return optimiser


@pytest.mark.parametrize("name", NAMES)
def test_the_update_on_the_host_is_that_on_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "STAGED_ELEMENTS", 40)
    here, there = network(), network()
    ours, theirs = train(here, name, offloaded=True), train(there, name, offloaded=False)
    assert isinstance(ours, OffloadedOptimizer)
    for one, other in zip(here.parameters(), there.parameters(), strict=True):
        assert torch.equal(one, other)
        assert ours.state[one].keys() == theirs.state[other].keys()
        for what, value in ours.state[one].items():
            assert torch.equal(value, theirs.state[other][what])
            assert value.device.type == "cpu"


def split_update(name: str, kind: str) -> bool:
    """On one of two ranks: whether split parameters are updated as whole ones on a device are."""
    model, reference = network(), network()
    mesh = init_device_mesh("cpu", (2,))
    if kind == "fsdp":
        fully_shard(model, mesh=mesh)
    else:
        parallelize_module(model, mesh, {"0": ColwiseParallel(), "1": RowwiseParallel()})
    optimiser = train(model, name, offloaded=True)
    state = train(reference, name, offloaded=False).state
    for one, other in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(whole(one.detach()), other.detach(), rtol=0, atol=1e-6)
        for what, value in optimiser.state[one].items():
            assert isinstance(value, DTensor) is (isinstance(one, DTensor) and what != "step")
            if isinstance(value, DTensor) and isinstance(one.data, DTensor):
                assert value.placements == one.data.placements
            torch.testing.assert_close(whole(value), state[other][what], rtol=0, atol=1e-6)
    return True


@pytest.mark.parametrize("kind", ["fsdp", "tensor"])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_split_parameters_are_updated_on_the_host_too(name: str, kind: str) -> None:
    assert run_ranks(2, split_update, name, kind) == [True, True]


def test_pieces_are_bounded_and_lose_nothing() -> None:
    parameters = [torch.zeros(size) for size in (3, 3, 10, 1, 4, 1)]
    found = list(pieces(parameters, 6))
    assert [[part.numel() for part in piece] for piece in found] == [[3, 3], [10], [1, 4, 1]]
    assert list(pieces([], 6)) == []


@pytest.mark.parametrize("name", ["adafactor", "muon"])
def test_what_needs_whole_matrices_is_refused(name: str) -> None:
    with pytest.raises(RunError, match="cannot be offloaded"):
        build_optimiser(network(), OptimSpec(name=name), CPU, offload=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("name", NAMES)
def test_on_a_gpu_the_state_is_on_the_host(name: str) -> None:
    device = torch.device("cuda")
    model, reference = network().to(device), network()
    train(reference, name, offloaded=False)
    optimiser = train(model, name, offloaded=True)
    for one, other in zip(model.parameters(), reference.parameters(), strict=True):
        assert one.is_cuda
        torch.testing.assert_close(one.cpu(), other, rtol=1e-5, atol=1e-6)
        assert all(value.device.type == "cpu" for value in optimiser.state[one].values())
