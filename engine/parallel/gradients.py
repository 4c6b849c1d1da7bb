"""What happens to gradients between the last backward pass and the update, over all ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.placement_types import _StridedShard

from engine.parallel.dtensors import gradient, shard
from engine.parallel.mesh import Mesh


def named_parameters(parts: Sequence[nn.Module]) -> Iterable[tuple[str, nn.Parameter]]:
    """Name in the whole model and parameter, of all parts of a rank, each parameter once."""
    for part in parts:
        yield from part.named_parameters()


class Gradients:
    """The gradients of a rank's parts."""

    def __init__(self, parts: Sequence[nn.Module], mesh: Mesh | None, tied: bool) -> None:
        self._mesh = mesh
        self._parameters = [parameter for _, parameter in named_parameters(parts) if parameter.requires_grad]
        self._tables = _tied_tables(parts) if mesh is not None and mesh.layout.pp > 1 and tied else []
        copies = {id(table) for name, table in self._tables if name == "head.weight"}
        self._shares = [0.0 if id(parameter) in copies else self._share(parameter) for parameter in self._parameters]

    def settle(self) -> None:
        """Finish what the backward pass left open: sums over tp, and over the two ends of a pipeline."""
        for parameter in self._parameters:
            if parameter.grad is not None:
                gradient(parameter)
        if not self._tables:
            return
        own = [shard(gradient(table)) for _, table in self._tables]
        if len(own) == 2:  # both ends on this rank
            own[0].add_(own[1])
            own[1].copy_(own[0])
        elif self._mesh is not None and self._mesh.ends is not None:
            distributed.all_reduce(own[0], group=self._mesh.ends)

    def norm(self) -> Tensor:
        """The 2-norm of all gradients of the whole model, the same on every rank; to be settled before."""
        squares = [
            share * torch.linalg.vector_norm(shard(gradient(parameter)), dtype=torch.float32).square()
            for parameter, share in zip(self._parameters, self._shares, strict=True)
            if parameter.grad is not None and share
        ]
        device = self._parameters[0].device
        total = torch.stack(squares).sum() if squares else torch.zeros((), device=device)
        if self._mesh is not None:
            distributed.all_reduce(total)
        return total.sqrt()

    def clip(self, norm: Tensor, largest: float) -> None:
        """Scale all gradients down to ``largest`` if their norm is above it (Pascanu et al. 2013)."""
        factor = (largest / (norm + 1e-6)).clamp(max=1.0)
        gradients = [shard(gradient(parameter)) for parameter in self._parameters if parameter.grad is not None]
        torch._foreach_mul_(gradients, factor.to(gradients[0].device))

    def _share(self, parameter: nn.Parameter) -> float:
        """One over how many ranks have the elements that this one has."""
        if self._mesh is None:
            return 1.0
        ranks = self._mesh.layout.world_size // self._mesh.layout.pp
        if not isinstance(parameter.data, DTensor):
            return 1.0 / ranks
        mesh = parameter.data.device_mesh
        pieces = 1
        for axis, placement in enumerate(parameter.data.placements):
            if isinstance(placement, Shard | _StridedShard):
                pieces *= mesh.size(axis)
        return pieces / ranks


def _tied_tables(parts: Sequence[nn.Module]) -> list[tuple[str, nn.Parameter]]:
    """The copies on this rank of a table that both ends of a pipeline have."""
    return [pair for pair in named_parameters(parts) if pair[0] in {"embedding.weight", "head.weight"}]
