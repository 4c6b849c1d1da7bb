"""Which rank sits where on the mesh of a layout, as rows that a narrow pane can hold, and in words.

The commands, which have the width for it, print the boxes of :mod:`engine.contract.meshdrawing`. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from engine.contract.hosts import LOCALHOST
from engine.contract.layout import Layout
from engine.contract.mesh import coordinate, layers_at
from engine.contract.placing import AXES
from tui.text import cell_width, fit, printable
from tui.widgets.glyphs import Glyphs

_SHORT = {"dp_replicate": "dp", "dp_shard": "fsdp"}
"""How these axes are written where there is little room; the others have short names."""
Piece = tuple[str, str]
Row = list[Piece]
_LEAST_COLUMNS = 3
"""Of a long axis at least so many ranks are named, with what is between left out."""


def sizes_of(layout: Layout) -> dict[str, int]:
    """The axes of more than one rank, by their short names, slowest first."""
    return {_SHORT.get(axis, axis): size for axis in AXES if (size := getattr(layout, axis)) > 1}


def mesh_words(layout: Layout) -> str:
    """``pp 2 x fsdp 4``; empty for one rank."""
    return " x ".join(f"{axis} {size}" for axis, size in sizes_of(layout).items())


def place_words(layout: Layout, rank: int) -> str:
    """Where a rank sits: ``pp 1, tp 0``; empty where there is but one, or no such rank."""
    if not 0 <= rank < layout.world_size:
        return ""
    return ", ".join(f"{axis} {index}" for axis, index in _place(layout, rank).items())


def _place(layout: Layout, rank: int) -> dict[str, int]:
    """The position of a rank on the axes that :func:`sizes_of` names."""
    place = zip(AXES, coordinate(layout, rank), strict=True)
    return {_SHORT.get(axis, axis): index for axis, index in place if getattr(layout, axis) > 1}


class Seats(NamedTuple):
    """Which places the devices and the ranks of one host have."""

    layout: Layout
    host: int | None
    """Its number among the hosts of the layout; None where that is not known."""

    def of_rank(self, rank: int) -> str:
        return place_words(self.layout, rank)

    def of_device(self, index: int) -> str:
        """Of an accelerator by its index; empty for one that the run does not use."""
        if self.host is None or index not in self.layout.device_indices:
            return ""
        first = self.host * self.layout.devices_per_host
        return place_words(self.layout, first + self.layout.device_indices.index(index))


def seats_of(layout: Layout | None, host: str | None) -> Seats | None:
    """The seats of a host by its name: the one that is no other's is this machine, by whatever name it goes."""
    if layout is None:
        return None
    hosts = layout.hosts or ()
    if len(hosts) < 2:
        return Seats(layout, 0)
    return Seats(layout, hosts.index(host if host in hosts else LOCALHOST) if {host, LOCALHOST} & {*hosts} else None)


def layer_words(layout: Layout, pp: int) -> str:
    """The layers that the ranks at one place of the pipeline hold, from 0: ``layers 0-1, 6-7``."""
    parts = layers_at(layout, pp, sum(layout.stages or ()))
    spans = [f"{part[0]}" if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts if part]
    return f"layer{'' if sum(map(len, parts)) == 1 else 's'} {', '.join(spans)}" if spans else ""


def mesh_rows(layout: Layout, width: int, height: int, signs: Glyphs) -> list[Row]:
    """The mesh in at most ``width`` x ``height`` cells; nothing for one rank, or where there is no room at all.

    The fastest axis goes to the right (a pipeline always goes down, beside its layers), the others go down.
    """
    sizes = sizes_of(layout)
    if not sizes or height < 2 or width < 12:
        return []
    across = next((axis for axis in reversed(sizes) if axis != "pp"), "")
    down = [axis for axis in sizes if axis != across]
    columns = sizes.get(across, 1)
    label = max(len(across) + 1, sum(_label_width(axis, sizes) for axis in down))
    cell = len(str(layout.world_size - 1)) + 2
    shown = _columns(columns, (width - label - 1) // (cell + 1))
    rows = [_heading(across, shown, label, cell, signs)] if across and down else []
    notes = _notes(layout)
    lines = layout.world_size // columns
    room = max(0, height - len(rows) - len(notes))
    if lines > room:
        room = max(0, room - 1)
    former: dict[str, int] = {}
    for line in range(min(lines, room)):
        place = {axis: _place(layout, line * columns)[axis] for axis in down}
        head = _labels(place, former, sizes) if down else across
        row = [(head.ljust(label), "label"), *_ranks(shown, line * columns, cell, place.get("pp", 0), signs)]
        former = place
        begins_stage = "pp" in place and not any(index for axis, index in place.items() if axis != "pp")
        holds = layer_words(layout, place["pp"]) if begins_stage else ""
        if holds and sum(cell_width(text) for text, _ in row) + 1 + len(holds) <= width:
            row.append((f" {holds}", "label"))
        rows.append(row)
    if lines > room:
        rows.append([(f"and {(lines - room) * columns} more ranks", "label")])
    return [_clipped(row, width) for row in [*rows, *notes][:height]]


def _clipped(row: Row, width: int) -> Row:
    clipped: Row = []
    for text, style in row:
        text = fit(text, min(width, cell_width(text)))
        width -= cell_width(text)
        clipped += [(text, style)] if text else []
    return clipped


def _label_width(axis: str, sizes: dict[str, int]) -> int:
    return len(f"{axis} {sizes[axis] - 1} ")


def _labels(place: dict[str, int], former: dict[str, int], sizes: dict[str, int]) -> str:
    """The places of a line; one that is that of the line above is not said again."""
    words = ""
    same = True
    for axis, index in place.items():
        same = same and former.get(axis) == index
        words += ("" if same else f"{axis} {index}").ljust(_label_width(axis, sizes))
    return words


def _columns(count: int, room: int) -> list[int | None]:
    """The places of the axis that goes to the right; None stands for those that there is no room for."""
    if count <= room:
        return list(range(count))
    return [*range(max(_LEAST_COLUMNS, room) - 2), None, count - 1]


def _heading(axis: str, shown: Sequence[int | None], label: int, cell: int, signs: Glyphs) -> Row:
    """The name of the axis that goes to the right, and its places."""
    places = "".join(f" {signs.ellipsis if place is None else place:^{cell}}" for place in shown)
    return [(f"{axis:>{label - 1}} {places}", "label")]


def _ranks(shown: Sequence[int | None], first: int, cell: int, stage: int, signs: Glyphs) -> Row:
    """The ranks of a line, between strokes."""
    tone = _TONES[stage % len(_TONES)]
    row: Row = [(signs.down, "frame")]
    for column in shown:
        row += [(f"{signs.ellipsis if column is None else first + column:^{cell}}", tone), (signs.down, "frame")]
    return row


_TONES = ("train", "validation", "third", "fourth")
"""One for each pipeline place, in turns; their numbers tell them apart without colour."""


def _notes(layout: Layout) -> list[Row]:
    """Which ranks are on which host, and which devices they use where those are not the first ones."""
    each = layout.devices_per_host
    rows: list[Row] = []
    for number, host in enumerate(layout.hosts or ()):
        ranks = _spans(range(number * each, (number + 1) * each))
        rows.append([(f"{printable(host, newlines=False)}: rank{'s' if each > 1 else ''} {ranks}", "label")])
    if layout.device_indices != tuple(range(each)):
        rows.append([(f"devices {_spans(layout.device_indices)}", "label")])
    return rows


def _spans(numbers: Sequence[int]) -> str:
    """``0-3, 6``."""
    groups = groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    spans = [[number for _, number in group] for _, group in groups]
    return ", ".join(f"{span[0]}" if len(span) == 1 else f"{span[0]}-{span[-1]}" for span in spans)
