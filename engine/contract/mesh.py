"""Where each rank of a layout stands: on the five axes, on which device, and with which part of the model.

Ranks count through ``(pp, dp_replicate, dp_shard, cp, tp)`` with tp fastest, and through the hosts in order.
"""

from __future__ import annotations

from typing import NamedTuple

from engine.contract.layout import Layout
from engine.contract.pipelines import first_layers
from engine.contract.placing import AXES


class Coordinate(NamedTuple):
    """The position of a rank on each axis, from 0."""

    pp: int
    dp_replicate: int
    dp_shard: int
    cp: int
    tp: int


class Seat(NamedTuple):
    """Where a rank runs."""

    host: int
    """Number of the host in ``layout.hosts``; 0 where there is but this machine."""
    device: int
    """Index of the device on that host."""


def axis_sizes(layout: Layout) -> Coordinate:
    """The size of each axis."""
    return Coordinate(*(getattr(layout, axis) for axis in AXES))


def coordinate(layout: Layout, rank: int) -> Coordinate:
    """The position of ``rank``."""
    places = []
    for size in reversed(axis_sizes(layout)):
        rank, place = divmod(rank, size)
        places.append(place)
    return Coordinate(*reversed(places))


def rank_at(layout: Layout, place: Coordinate) -> int:
    """The rank at ``place``."""
    rank = 0
    for size, at in zip(axis_sizes(layout), place, strict=True):
        rank = rank * size + at
    return rank


def group(layout: Layout, rank: int, axis: str) -> tuple[int, ...]:
    """The ranks that differ from ``rank`` along ``axis`` alone, itself included, in order."""
    place = coordinate(layout, rank)
    return tuple(rank_at(layout, place._replace(**{axis: at})) for at in range(getattr(layout, axis)))


def data_rank(layout: Layout, rank: int) -> int:
    """Which of the data ranks ``rank`` belongs to: those of one see the same samples."""
    place = coordinate(layout, rank)
    return place.dp_replicate * layout.dp_shard + place.dp_shard


def micro_batch_of(layout: Layout, rank: int) -> int:
    """Sequences that ``rank`` processes at a time."""
    return layout.micro_batches[data_rank(layout, rank)] if layout.micro_batches else layout.micro_batch


def seat(layout: Layout, rank: int) -> Seat:
    """Host and device of ``rank``."""
    host, device = divmod(rank, layout.devices_per_host)
    return Seat(host, layout.device_indices[device])


def stages_at(layout: Layout, pp: int) -> tuple[int, ...]:
    """The pipeline stages of the ranks at position ``pp``, in the order of the layers.

    They go round the ranks (Narayanan et al. 2021), under zero-bubble-v there and back (Qi et al. 2023, section 6).
    """
    if layout.schedule == "zero-bubble-v":
        return pp, 2 * layout.pp - 1 - pp
    return tuple(range(pp, layout.pp * layout.virtual_stages, layout.pp))


def layers_at(layout: Layout, pp: int, layers: int) -> tuple[range, ...]:
    """The layers, of ``layers`` in all, in each of the stages of the ranks at position ``pp``."""
    if layout.stages is None:
        return (range(layers),)
    first = first_layers(layout.stages)
    return tuple(range(first[at], first[at] + layout.stages[at]) for at in stages_at(layout, pp))
