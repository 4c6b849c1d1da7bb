"""A small decoder with known values, split by torch alone as a layout says: what checkpoints are tried on."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.optim import Optimizer

from engine.contract.shape import ModelShape
from engine.contract.spec import OptimSpec
from engine.model.decoder import Decoder
from engine.training.checkpoint import Content, Position
from engine.training.optimiser import build_optimiser
from engine.training.tensors import every_model_tensor, every_optimiser_tensor

LAYERS = 4
SHAPE = ModelShape(
    family="llama", layers=LAYERS, hidden=6, heads=3, kv_heads=1, head_size=2, feed_forward=5, vocabulary=37,
    positions=16, norm="rmsnorm", position="rotary", mlp="swiglu", bias=False, tied_embeddings=True,
)  # fmt: skip
"""Sizes that nothing divides: rows are split unevenly, and of four ranks some get none of the keys' two rows."""
POSITION = Position(step=7, samples=56, tokens=560, elapsed_seconds=1.5)

Split = Callable[[Decoder], Sequence[nn.Module]]


def content(optimiser: str = "adamw", shape: ModelShape = SHAPE) -> Content:
    return Content(shape=shape, optimiser=optimiser, data_fingerprint="of a test")


def known(name: str, shape: Sequence[int]) -> Tensor:
    """The values that the tensor ``name`` always has: no two alike, so that each knows its place."""
    count = torch.Size(shape).numel()
    return (torch.arange(count, dtype=torch.float32) + zlib.crc32(name.encode()) % 4096 * 512).reshape(shape)


def whole_model(shape: ModelShape = SHAPE, dtype: torch.dtype = torch.float32) -> Decoder:
    model = Decoder(shape)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(known(name, parameter.shape))
    return model.to(dtype)


def stage(model: Decoder, layers: Sequence[int]) -> Decoder:
    """The part of a pipeline with these layers: the first has the embedding, the last the norm and the head."""
    part = copy.deepcopy(model)
    part.order = [str(number) for number in layers]
    for name in set(part.layers) - set(part.order):
        del part.layers[name]
    if 0 not in layers:
        part.embedding = None
    if LAYERS - 1 not in layers:
        part.norm = part.head = None
    elif part.embedding is None:
        assert part.head is not None
        part.head.weight = nn.Parameter(part.head.weight.detach().clone())  # a copy of its own
    return part


def tensor_parallel(part: Decoder, mesh: DeviceMesh) -> None:
    """By columns, rows and vocabulary; the tied table once."""
    for layer in part.layers.values():
        plan = {f"attention.{name}": ColwiseParallel() for name in ("query", "key", "value")}
        plan |= {f"mlp.{name}": ColwiseParallel() for name in ("gate", "up")}
        plan |= {name: RowwiseParallel() for name in ("attention.output", "mlp.down")}
        parallelize_module(layer, mesh, plan)
    if part.embedding is not None:
        parallelize_module(part, mesh, {"embedding": RowwiseParallel()})
        part.tie_weights()
    elif part.head is not None:
        parallelize_module(part, mesh, {"head": ColwiseParallel()})


def fully_sharded(part: Decoder, mesh: DeviceMesh) -> None:
    for layer in part.layers.values():
        fully_shard(layer, mesh=mesh)
    fully_shard(part, mesh=mesh)


def axes(**sizes: int) -> DeviceMesh:
    return init_device_mesh("cpu", tuple(sizes.values()), mesh_dim_names=tuple(sizes))


def split(layout: str, model: Decoder) -> Sequence[nn.Module]:
    """This rank's parts of ``model`` under ``layout``."""
    match layout:
        case "single" | "ddp2":
            return [model]
        case "fsdp2" | "fsdp4":
            fully_sharded(model, axes(shard=distributed.get_world_size()))
            return [model]
        case "hsdp4":
            fully_sharded(model, axes(replicate=2, shard=2))
            return [model]
        case "tp2" | "tp4":
            tensor_parallel(model, axes(tp=distributed.get_world_size()))
            return [model]
        case "fsdp2 x tp2":
            mesh = axes(shard=2, tp=2)
            tensor_parallel(model, mesh["tp"])
            fully_sharded(model, mesh["shard"])
            return [model]
        case "pp2":
            return [stage(model, [[0], [1, 2, 3]][distributed.get_rank()])]
        case "pp2 as a v":
            return [stage(model, layers) for layers in ([[0], [3]], [[1], [2]])[distributed.get_rank()]]
        case "pp2 x fsdp2" | "pp2 x tp2":
            mesh = axes(pp=2, other=2)
            part = stage(model, [[0, 1], [2, 3]][mesh["pp"].get_local_rank()])
            (fully_sharded if "fsdp" in layout else tensor_parallel)(part, mesh["other"])
            return [part]
    raise AssertionError(layout)


LAYOUTS = {
    "single": 1, "ddp2": 2, "fsdp2": 2, "tp2": 2, "pp2": 2, "pp2 as a v": 2, "fsdp4": 4, "hsdp4": 4, "tp4": 4,
    "fsdp2 x tp2": 4, "pp2 x fsdp2": 4, "pp2 x tp2": 4,
}  # fmt: skip
"""Name -> ranks."""


@torch.no_grad()
def known_optimiser(parts: Sequence[nn.Module], name: str = "adamw") -> Optimizer:
    """An optimiser after an update, whose memory is made of its parameter's values, or of its own name."""
    optimiser = build_optimiser(parts, OptimSpec(name=name, momentum=0.9), torch.device("cpu"))
    for group in optimiser.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    optimiser.zero_grad()
    values = {name: tensor for name, tensor, _ in every_model_tensor(parts)}
    for key, memory, _ in every_optimiser_tensor(parts, optimiser):
        owner, _, what = key.rpartition(":")
        if what in {"exp_avg", "exp_avg_sq", "momentum_buffer"}:  # split as the parameter is
            local(memory).copy_(local(values[owner]) * 2 ** (1 + len(what) % 7))  # exact in floating point
        else:
            memory.copy_(known(key, memory.shape))
    return optimiser


def local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def held(parts: Sequence[nn.Module], optimiser: Optimizer | None = None) -> list[tuple[str, Tensor]]:
    """Everything that this rank holds, both copies of a table included."""
    members = every_model_tensor(parts)
    if optimiser is not None:
        members += every_optimiser_tensor(parts, optimiser)
    return [(name, local(tensor)) for name, tensor, _ in members]
