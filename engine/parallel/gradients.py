"""What happens to gradients between the last backward pass and the update, over all ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor, Partial, Shard
from torch.distributed.tensor.placement_types import _StridedShard

from engine.parallel.dtensors import gradient, like, shard
from engine.parallel.mesh import Mesh


def named_parameters(parts: Sequence[nn.Module]) -> Iterable[tuple[str, nn.Parameter]]:
    """Name in the whole model and parameter, of all parts of a rank, each parameter once."""
    for part in parts:
        yield from part.named_parameters()


class Gradients:
    """The gradients of a rank's parts. In each step: settle them, take their norm, clip them."""

    def __init__(self, parts: Sequence[nn.Module], mesh: Mesh | None, tied: bool) -> None:
        """``tied``: whether the model's embedding and head share a table."""
        self._mesh = mesh
        self._parameters = [parameter for _, parameter in named_parameters(parts) if parameter.requires_grad]
        self._tables = _tied_tables(parts) if mesh is not None and mesh.layout.pp > 1 and tied else []
        copies = {id(table) for name, table in self._tables if name == "head.weight"}
        shares = [0.0 if id(parameter) in copies else self._share(parameter) for parameter in self._parameters]
        self._shares = torch.tensor(shares, device=self._parameters[0].device)
        self._own: list[Tensor] = []

    def settle(self) -> None:
        """Finish what the backward pass left open: sums over tp, and over the two ends of a pipeline."""
        self._sum_partial()
        self._own = [shard(gradient(parameter)) for parameter in self._parameters]
        if not self._tables:
            return
        tables = [shard(gradient(table)) for _, table in self._tables]
        if len(tables) == 2:  # both ends on this rank
            tables[0].add_(tables[1])
            tables[1].copy_(tables[0])
        elif self._mesh is not None and self._mesh.ends is not None:
            distributed.all_reduce(tables[0], group=self._mesh.ends)

    def norm(self) -> Tensor:
        """The 2-norm of all gradients of the whole model, the same on every rank; to be settled before."""
        norms = torch.stack(torch._foreach_norm(self._own, 2.0, torch.float32))
        total = (norms.square() * self._shares).sum()
        if self._mesh is not None:
            distributed.all_reduce(total)
        return total.sqrt()

    def clip(self, norm: Tensor, largest: float) -> None:
        """Scale all gradients down to ``largest`` if their norm is above it (Pascanu et al. 2013)."""
        torch._foreach_mul_(self._own, (largest / (norm + 1e-6)).clamp(max=1.0))

    def _sum_partial(self) -> None:
        """One sum over tp for all replicated parameters (the norms), of whose gradients each rank has a summand."""
        if self._mesh is None or self._mesh.layout.tp == 1:
            return
        open_ones = [
            parameter
            for parameter in self._parameters
            if isinstance(parameter.grad, DTensor) and parameter.grad.placements == (Partial(),)
        ]
        if not open_ones:
            return
        summands = [shard(parameter.grad) for parameter in open_ones if parameter.grad is not None]
        together = torch.cat([summand.flatten() for summand in summands])
        distributed.all_reduce(together, group=self._mesh.devices["tp"].get_group())
        sums = torch.split(together, [summand.numel() for summand in summands])
        for parameter, total in zip(open_ones, sums, strict=True):
            parameter.grad = like(parameter, total.view(parameter.shape))

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
