"""The optimiser's state in the memory of the host, where the update is computed, too (Ren et al. 2021, ZeRO-Offload).

Saved on the device are the state's bytes, for Adam in float32 two thirds of what parameters and state take together.
Paid is the way of gradients and parameters to the host and of parameters back, and an update by the processor. State
does not travel, so only what is on its way lies in pinned memory: a bounded piece of the parameters at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from engine.parallel.dtensors import gradient, shard
from engine.training.algorithms import ELEMENTWISE, Group, first_memory
from engine.training.sharded import ShardedOptimizer

STAGED_ELEMENTS = 2**24
"""Parameters that are on the host at a time, unless a single one has more: 64 MiB in float32, and as many gradients."""
OFFLOADABLE = frozenset(ELEMENTWISE)
"""Algorithms that can work on the host: the others gather matrices, over links that devices have."""


class OffloadedOptimizer(ShardedOptimizer):
    """As :class:`ShardedOptimizer`, and with its results, but with state on the host.

    State that is as large as its parameter is split as the parameter is: a DTensor whose part lies on the host.
    """

    def _update(self, parameters: list[Tensor], group: Group) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = first_memory(parameter, group, host_zeros_like)
        for piece in pieces(parameters, STAGED_ELEMENTS):
            devices = [shard(parameter) for parameter in piece]
            hosts = [_on_host(part) for part in devices]
            gradients = [_on_host(shard(gradient(parameter))) for parameter in piece]
            if devices[0].is_cuda:
                torch.cuda.current_stream(devices[0].device).synchronize()
            memories = [{what: shard(value) for what, value in self.state[parameter].items()} for parameter in piece]
            ELEMENTWISE[group["algorithm"]](hosts, gradients, memories, group)
            for device, host in zip(devices, hosts, strict=True):
                device.copy_(host, non_blocking=device.is_cuda)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, which puts everything beside the parameters; then to the host."""
        super().load_state_dict(state_dict)
        for parameter, memory in self.state.items():
            for what, value in memory.items():
                local = shard(value).cpu()
                memory[what] = _split_as(parameter, local) if isinstance(value, DTensor) else local


def pieces(parameters: list[Tensor], largest: int) -> Iterator[list[Tensor]]:
    """``parameters`` in order, in pieces whose local parts have up to ``largest`` elements together."""
    piece: list[Tensor] = []
    held = 0
    for parameter in parameters:
        size = shard(parameter).numel()
        if piece and held + size > largest:
            yield piece
            piece, held = [], 0
        piece.append(parameter)
        held += size
    if piece:
        yield piece


def host_zeros_like(parameter: Tensor) -> Tensor:
    """Zeros on the host that are split as ``parameter`` is."""
    return _split_as(parameter, torch.zeros_like(shard(parameter), device="cpu"))


def _split_as(parameter: Tensor, local: Tensor) -> Tensor:
    """``local`` as this rank's part; ``DTensor.from_local`` would move it to the device of the mesh."""
    if not isinstance(parameter, DTensor):
        return local
    return DTensor(local, parameter._spec, requires_grad=False)  # type: ignore[no-untyped-call]  # torch's


def _on_host(tensor: Tensor) -> Tensor:
    """A copy of ``tensor``, pinned and on its way if it comes from a CUDA device."""
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return host.copy_(tensor, non_blocking=tensor.is_cuda)
