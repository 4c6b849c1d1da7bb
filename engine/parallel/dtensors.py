"""From a tensor that may be split over ranks to plain ones, this rank's part or the whole, and back."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard


def shard(tensor: Tensor) -> Tensor:
    """This rank's part of ``tensor``, sharing its memory; a plain tensor is its own part."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gradient(parameter: Tensor) -> Tensor:
    """The gradient, split as the parameter is.

    Tensor parallelism leaves the gradient of a replicated parameter (a norm's gain under sequence parallelism) as
    partial sums. The sum is kept in ``parameter.grad``, so that it is computed once.
    """
    grad = parameter.grad
    assert grad is not None
    if isinstance(parameter, DTensor) and isinstance(grad, DTensor) and grad.placements != parameter.placements:
        grad = parameter.grad = grad.redistribute(placements=parameter.placements)
    return grad


def like(parameter: Tensor, local: Tensor) -> Tensor:
    """``local`` as this rank's part of a tensor that is split as ``parameter`` is."""
    if not isinstance(parameter, DTensor):
        return local
    return DTensor.from_local(
        local, parameter.device_mesh, parameter.placements, run_check=False,
        shape=parameter.shape, stride=parameter.stride(),
    )  # fmt: skip


def whole(tensor: Tensor) -> Tensor:
    """The full tensor on every rank of its mesh; to be called on all of them.

    One mesh dimension is gathered after the other, the last split one first. (FSDP over tensor parallelism is
    split the other way around than its mesh dimensions lie: a strided shard, not a ``Shard`` to torch.)
    """
    if not isinstance(tensor, DTensor):
        return tensor
    placements = list(tensor.placements)
    strided = [at for at, placement in enumerate(placements) if type(placement) not in {Shard, Replicate}]
    plain = [at for at, placement in reversed(list(enumerate(placements))) if type(placement) is Shard]
    for at in strided + plain:
        placements[at] = Replicate()
        tensor = tensor.redistribute(placements=placements)
    full: Tensor = tensor.to_local()
    return full


def part_of(full: Tensor, parameter: Tensor) -> Tensor:
    """This rank's part of ``full``, which all ranks have, split as ``parameter`` is; without communication."""
    if not isinstance(parameter, DTensor):
        return full
    everywhere = [Replicate()] * parameter.device_mesh.ndim
    replicated = DTensor.from_local(full, parameter.device_mesh, everywhere, run_check=False)
    local: Tensor = replicated.redistribute(placements=parameter.placements).to_local()
    return local


def zeros_like(parameter: Tensor) -> Tensor:
    """Zeros that are split as ``parameter`` is."""
    return torch.zeros_like(parameter, memory_format=torch.preserve_format)
