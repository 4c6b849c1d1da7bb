"""Number formats: which tensor has which, and that the ranks agree on the gradient's scale."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from engine.contract.errors import RunError
from engine.contract.layout import Layout
from engine.contract.presets import resolve_shape
from engine.contract.spec import ModelSpec, OptimSpec
from engine.contract.spec import Precision as Name
from engine.model.build import build_model
from engine.model.decoder import Decoder
from engine.parallel.dtensors import shard, whole
from engine.parallel.precision import Precision, takes_8_bits
from engine.training.optimiser import build_optimiser
from tests.engine.processes import run_ranks

CPU = torch.device("cpu")


def precision(name: Name) -> Precision:
    layout = Layout(
        strategy="single", accelerator="cpu", device_indices=(0,), micro_batch=1, accumulation=1, precision=name
    )
    return Precision.of(layout)


def network(preset: str = "gpt2-1m", **dimensions: object) -> Decoder:
    spec = ModelSpec(preset=preset, layers=2, hidden=32, heads=4, **dimensions)
    model = build_model(resolve_shape(spec, vocabulary=50, sequence_length=16), seed=1)
    assert isinstance(model, Decoder)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(5)) * 0.05)
    return model


def batch() -> Tensor:
    return torch.randint(50, (2, 17), generator=torch.Generator().manual_seed(2))


def loss(model: nn.Module, chosen: Precision) -> Tensor:
    with chosen.autocast(CPU):
        result: Tensor = model(batch()[:, :-1], targets=batch()[:, 1:])[0]
    return result


FORMATS: dict[Name, tuple[torch.dtype, torch.dtype]] = {
    "fp32": (torch.float32, torch.float32),
    "bf16-mixed": (torch.float32, torch.bfloat16),
    "bf16-true": (torch.bfloat16, torch.bfloat16),
    "fp16-mixed": (torch.float32, torch.float16),
}


@pytest.mark.parametrize("name", list(FORMATS))
def test_parameters_products_and_state_have_the_formats_of_the_precision(name: Name) -> None:
    chosen = precision(name)
    kept, computed = FORMATS[name]
    assert (chosen.parameter_dtype, chosen.compute_dtype) == (kept, computed)
    model = network()
    chosen.prepare(model, CPU)
    products: list[torch.dtype] = []
    model.layers["0"].mlp.up.register_forward_hook(lambda module, args, result: products.append(result.dtype))
    loss(model, chosen).backward()
    optimiser = build_optimiser(model, OptimSpec(), CPU)
    optimiser.step()
    assert products == [computed]
    for parameter in model.parameters():
        assert parameter.dtype == kept
        assert parameter.grad is not None
        assert parameter.grad.dtype == kept
        assert optimiser.state[parameter]["exp_avg"].dtype == kept
    exact = loss(network(), precision("fp32"))
    assert float(loss(network(), chosen).detach()) == pytest.approx(float(exact.detach()), rel=0.01)


def test_only_half_precision_scales() -> None:
    assert precision("fp16-mixed").scaler(CPU) is not None
    assert [precision(name).scaler(CPU) for name in ("fp32", "bf16-mixed", "bf16-true", "fp8")] == [None] * 4


def split_gradients(preset: str, name: Name) -> tuple[float, set[torch.dtype], bool]:
    """On one of two ranks: the relative error of all gradients to those of one device; formats between the layers."""
    chosen = precision(name)
    whole_model, split = network(preset), network(preset)
    mesh = init_device_mesh("cpu", (2,))
    for block in split.layers.values():
        fully_shard(block, mesh=mesh, mp_policy=chosen.layer_policy())
    fully_shard(split, mesh=mesh, mp_policy=chosen.outer_policy())
    streams: set[torch.dtype] = set()
    weights: list[bool] = []
    for block in split.layers.values():
        block.register_forward_hook(lambda module, args, result: streams.add(result.dtype))
        block.mlp.register_forward_pre_hook(
            lambda module, args: weights.append(module.up.weight.dtype == chosen.compute_dtype)
        )
    for model in (whole_model, split):
        loss(model, chosen).backward()
    errors, sizes = [], []
    for key, parameter in whole_model.named_parameters():
        assert parameter.grad is not None
        found = split.get_parameter(key).grad
        assert isinstance(found, DTensor)
        assert found.dtype == torch.float32
        errors.append((whole(found) - parameter.grad).norm())
        sizes.append(parameter.grad.norm())
    return float(torch.stack(errors).norm() / torch.stack(sizes).norm()), streams, all(weights)


@pytest.mark.parametrize("preset", ["llama-1m", "gpt2-1m"])
@pytest.mark.parametrize("name", ["bf16-mixed", "fp16-mixed", "fp32"])
def test_shards_travel_in_16_bits_and_the_stream_stays_in_32(preset: str, name: Name) -> None:
    for error, streams, gathered_low in run_ranks(2, split_gradients, preset, name):
        assert error < {"fp32": 1e-5, "bf16-mixed": 0.01, "fp16-mixed": 0.002}[name]
        assert streams == {torch.float32}
        assert gathered_low


def scaled_steps(split: str) -> list[tuple[float, bool, float]]:
    """On one of two ranks: scale and whether something changed, after a sound step, one with a gradient that only
    rank 1 sees to be infinite, and a sound one; and how far the gradients were from unscaled ones."""
    mesh = init_device_mesh("cpu", (2,))
    model, reference = nn.Linear(3, 1), nn.Linear(3, 1)  # one row: rank 1 of the shards has none of it
    reference.load_state_dict(model.state_dict())
    if split == "shards":
        fully_shard(model, mesh=mesh)
    scaler = precision("fp16-mixed").scaler(CPU)
    assert scaler is not None
    optimiser = build_optimiser([model], OptimSpec(name="sgd", momentum=0.0), CPU)
    inputs = torch.ones(4, 3)
    told = []
    for step in range(3):
        optimiser.zero_grad()
        before = [shard(value.detach()).clone() for value in model.parameters()]
        scaler.scale(model(inputs).sum()).backward()
        if step == 1 and mesh.get_local_rank() == (0 if split == "shards" else 1):
            parameter = next(model.parameters())
            assert parameter.grad is not None
            shard(parameter.grad).fill_(float("inf"))
        scaler.unscale_(optimiser)
        difference = max(
            float((shard(value.grad) - 4).abs().max()) if shard(value.grad).numel() else 0.0
            for value in model.parameters()
            if value.grad is not None
        )
        scaler.step(optimiser)
        scaler.update()
        changed = any(
            bool((shard(value.detach()) != old).any()) for value, old in zip(model.parameters(), before, strict=True)
        )
        told.append((scaler.get_scale(), changed, difference))
    return told


@pytest.mark.parametrize("split", ["shards", "copies"])
def test_one_rank_with_an_infinite_gradient_holds_all_back(split: str) -> None:
    ranks = run_ranks(2, scaled_steps, split)
    for rank, told in enumerate(ranks):
        has_rows = split == "copies" or rank == 0
        assert [scale for scale, _, _ in told] == [65536.0, 32768.0, 32768.0]
        assert [changed for _, changed, _ in told] == [has_rows, False, has_rows]
        assert told[0][2] == told[2][2] == 0.0  # unscaled: the gradient of a sum over four rows of ones


def test_the_layers_matrices_are_computed_in_8_bits_and_nothing_else() -> None:
    chosen = {name for name, module in network("llama-1m").named_modules() if takes_8_bits(module, name)}
    parts = {"attention.query", "attention.key", "attention.value", "attention.output"}
    assert chosen >= {f"layers.{number}.{part}" for number in (0, 1) for part in parts}
    assert all(name.startswith("layers.") for name in chosen)
    assert not takes_8_bits(nn.Linear(16, 24), "layers.0.mlp.up")


@pytest.mark.skipif(importlib.util.find_spec("torchao") is not None, reason="torchao is installed here")
def test_without_torchao_8_bits_say_what_to_install() -> None:
    with pytest.raises(RunError, match=r"traindeck\[fp8\]"):
        precision("fp8").prepare(network(), CPU)
