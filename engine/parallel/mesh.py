"""The one mesh of a run, and the groups that its ranks work in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from engine.contract.layout import Layout
from engine.contract.mesh import Coordinate, coordinate, data_rank

AXES = ("pp", "replicate", "shard", "tp")
"""Axes that parameters lie on. The ranks of a sequence (cp) hold the same parameters or, where these are sharded at
all, shards of them: they are part of ``shard`` then, and of ``replicate`` otherwise."""


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """Where this rank stands, and with whom it speaks."""

    layout: Layout
    place: Coordinate
    """Of this rank, on the five axes of the layout."""
    devices: DeviceMesh
    """All ranks, with the axes :data:`AXES`."""
    context: distributed.ProcessGroup | None
    """Ranks that hold parts of the same sequences, in their order; None where no sequence is split."""
    ends: distributed.ProcessGroup | None
    """The first and the last rank of this rank's pipeline, where this is one of them and they share a table."""

    @property
    def data_rank(self) -> int:
        """Which of the ranks that see different samples this one is."""
        return data_rank(self.layout, distributed.get_rank())

    @property
    def copies_alone(self) -> bool:
        """Whether all ranks have the whole model, and nothing but the batch is split."""
        return self.layout.dp_replicate == self.layout.world_size

    def positions(self, sequence_length: int, device: torch.device) -> Tensor | None:
        """Positions of each sequence whose tokens this rank reads, (seq / cp,); None: all, one after the other.

        The stream inside a rank may be shorter (sequence parallel), so that they cannot be told from it.
        """
        layout = self.layout
        if layout.pp == layout.tp == layout.cp == 1:
            return None
        return own_positions(sequence_length, self.place.cp, layout.cp, device)

    @property
    def gradient_ranks(self) -> int:
        """Ranks over which gradients are averaged."""
        return self.layout.data_ranks * self.layout.cp


def own_positions(sequence_length: int, rank: int, ranks: int, device: torch.device) -> Tensor:
    """Positions that ``rank`` of the ``ranks`` of a sequence holds, ascending, (seq / ranks,).

    The sequence is cut into ``2 ranks`` pieces, of which a rank has one from either end: with causal attention an
    early piece has little to look at and a late one much, so that all do the same work (Grattafiori et al. 2024,
    section 3.3.2).
    """
    if ranks == 1:
        return torch.arange(sequence_length, device=device)
    pieces = torch.arange(sequence_length, device=device).chunk(2 * ranks)
    return torch.cat((pieces[rank], pieces[2 * ranks - 1 - rank]))


def make_mesh(layout: Layout, device_type: str, *, tied: bool) -> Mesh:
    """The mesh of ``layout`` over all processes; every rank calls it. ``tied``: embedding and head share a table."""
    sharded = layout.dp_shard > 1
    sizes = (
        layout.pp,
        layout.dp_replicate * (1 if sharded else layout.cp),
        layout.dp_shard * (layout.cp if sharded else 1),
        layout.tp,
    )
    devices = init_device_mesh(device_type, sizes, mesh_dim_names=AXES)
    rank = distributed.get_rank()
    numbers = torch.arange(layout.world_size).view(
        layout.pp, layout.dp_replicate, layout.dp_shard, layout.cp, layout.tp
    )
    return Mesh(
        layout=layout,
        place=coordinate(layout, rank),
        devices=devices,
        context=_own_group(numbers.movedim(3, -1).reshape(-1, layout.cp), rank) if layout.cp > 1 else None,
        ends=_own_group(torch.stack((numbers[0], numbers[-1])).flatten(1).T, rank) if tied and layout.pp > 1 else None,
    )


def _own_group(groups: Tensor, rank: int) -> distributed.ProcessGroup | None:
    """Make a process group of each row; the one that ``rank`` is in."""
    own = None
    for row in groups.tolist():
        group = distributed.new_group(row)
        if rank in row:
            own = group
    return own
