"""The mesh of a layout as lines of plain text: a box for each pipeline position, in it which rank sits where.

Rows are data-parallel ranks, columns those that share one sample (cp, tp). What does not fit is counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, product
from math import prod
from typing import NamedTuple

from engine.contract.layout import Layout
from engine.contract.limits import divisors
from engine.contract.mesh import axis_sizes, coordinate, layers_at, rank_at, seat
from engine.contract.placing import AXES

LEAST_WIDTH = 24
LONGEST_HOST = 12
"""Characters of a host's name in a cell; the list of hosts below has it whole."""
MOST_HOSTS = 8
"""Hosts that are listed one by one."""


class _Signs(NamedTuple):
    corners: str
    """Top left, top right, bottom left, bottom right."""
    across: str
    down: str
    dot: str
    times: str
    more: str


_UNICODE = _Signs("┌┐└┘", "─", "│", " · ", "×", "…")
_ASCII = _Signs("++++", "-", "|", ", ", "x", "...")


class _Row(NamedTuple):
    label: str
    cells: tuple[int, ...]
    """Ranks relative to the first one of the box."""


class _Grid(NamedTuple):
    """What all boxes have in common."""

    header: tuple[str, ...]
    """Labels of the columns; empty where rows are broken or there is one cell."""
    rows: tuple[_Row, ...]
    cell: int
    """Width of a cell."""
    devices: bool
    """Whether there is room for the device beside the rank."""


def draw_mesh(
    layout: Layout, layers: int | None = None, width: int = 80, height: int = 40, *, unicode: bool = True
) -> list[str]:
    """Lines of at most ``width`` columns, and about ``height`` of them, that show where each rank sits.

    ``layers`` of the model names those of each box; without a pipeline, or unknown, it may be None.
    """
    signs = _UNICODE if unicode else _ASCII
    width = max(width, LEAST_WIDTH)
    grid = _grid(layout, width, height, signs)
    margin = max((len(row.label) for row in grid.rows), default=0)
    margin += 2 if margin else 0
    boxes = [_box(layout, pp, layers, grid, signs, width - margin) for pp in range(layout.pp)]
    widest = len(boxes[0][0])
    abreast = max(1, (width - margin + 1) // (widest + 1))
    tall = len(boxes[0])
    shown = min(layout.pp, max(1, height // tall) * abreast)
    labels = ["", *([""] if grid.header else []), *(row.label for row in grid.rows), ""]
    lines = [_title(layout, signs)]
    for first in range(0, shown, abreast):
        beside = boxes[first : min(shown, first + abreast)]
        for at, label in enumerate(labels):
            lines.append(f"{label:<{margin}}{' '.join(box[at] for box in beside)}".rstrip())
    drawn = shown * sum(len(row.cells) for row in grid.rows)
    if drawn < layout.world_size:
        lines.append(f"{signs.more} and {layout.world_size - drawn} more ranks in the same order")
    return [line[:width] for line in (*lines, *_seats(layout, grid.devices, signs))]


def _title(layout: Layout, signs: _Signs) -> str:
    sizes = [f"{axis} {size}" for axis, size in zip(AXES, axis_sizes(layout), strict=True) if size > 1]
    ranks = f"{layout.world_size} rank{'s' if layout.world_size > 1 else ''}"
    parts = [layout.strategy, f" {signs.times} ".join(sizes) + f" = {ranks}" if len(sizes) > 1 else ranks]
    if layout.schedule is not None:
        parts.append(f"{layout.schedule}, {layout.accumulation} micro-batches")
    if layout.micro_batches is not None:
        parts.append("micro-batches of " + ", ".join(map(str, layout.micro_batches)))
    return signs.dot.join(parts)


def _grid(layout: Layout, width: int, height: int, signs: _Signs) -> _Grid:
    """The rows and columns of a box: as many columns as fit, with the devices if these fit too."""
    rows, columns = _axes(layout)
    ranks = [_cell(layout, rank, devices=False) for rank in (0, layout.world_size - 1)]
    wide = max(len(_cell(layout, rank, devices=True)) for rank in range(min(layout.world_size, 4096)))
    narrow = max(map(len, ranks))
    if len(columns) == 2 and _needs(layout, rows, columns, wide) > width:
        rows, columns = (*rows, columns[0]), columns[1:]
    devices = _needs(layout, rows, columns, wide) <= width or not rows
    content = wide if devices else narrow
    header = tuple(_label(columns, place) for place in _places(layout, columns)) if columns else ()
    cell, broken = max(content, *map(len, header), 0), None
    if columns and _needs(layout, rows, columns, content) > width:
        margin = len(f"{_label(rows, [getattr(layout, axis) - 1 for axis in rows])} {columns[-1]} 000-000  ".lstrip())
        broken = _even_pieces(len(header), max(1, (width - margin - 2) // (content + 2)))
        header, cell = (), content
    made = _rows(layout, rows, columns, broken)
    return _Grid(header=header, rows=tuple(islice(made, max(1, height - 3))), cell=cell, devices=devices)


def _even_pieces(count: int, most: int) -> int:
    """Cells of a line where ``count`` of them take several: alike if that is not much shorter than ``most``."""
    alike = divisors(count, most)[-1]
    return alike if 2 * alike > most else -(-count // -(-count // most))


def _axes(layout: Layout) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """``(rows, columns)``: the axes within a pipeline position that have more than one rank."""
    data = tuple(axis for axis in ("dp_replicate", "dp_shard") if getattr(layout, axis) > 1)
    sample = tuple(axis for axis in ("cp", "tp") if getattr(layout, axis) > 1)
    if data and sample:
        return data, sample
    inner = data or sample
    return inner[:-1], inner[-1:]


def _places(layout: Layout, axes: Sequence[str]) -> Iterator[tuple[int, ...]]:
    return product(*(range(getattr(layout, axis)) for axis in axes))


def _label(axes: Sequence[str], place: Sequence[int]) -> str:
    return " ".join(f"{axis} {at}" for axis, at in zip(axes, place, strict=True))


def _needs(layout: Layout, rows: Sequence[str], columns: Sequence[str], content: int) -> int:
    """The width of a box with its labels."""
    last = [getattr(layout, axis) - 1 for axis in rows]
    margin = len(_label(rows, last)) + 2 if rows else 0
    cell = max(content, len(_label(columns, [getattr(layout, axis) - 1 for axis in columns])))
    cells: int = prod(getattr(layout, axis) for axis in columns)
    return margin + 4 + cells * (cell + 2) - 2


def _rows(layout: Layout, rows: tuple[str, ...], columns: tuple[str, ...], broken: int | None) -> Iterator[_Row]:
    """The rows of a box, each in pieces of ``broken`` cells where they are too long for one line."""
    for place in _places(layout, rows):
        cells = tuple(_rank(layout, rows + columns, place + at) for at in _places(layout, columns))
        label = _label(rows, place)
        if broken is None:
            yield _Row(label, cells)
            continue
        for first in range(0, len(cells), broken):
            piece = cells[first : first + broken]
            last = first + len(piece) - 1
            name = f"{label} {columns[-1]} ".lstrip()
            # The name once: repeated, the pieces of one row would read as the ranks of another axis.
            yield _Row((name if first == 0 else " " * len(name)) + _span(range(first, last + 1)), piece)


def _rank(layout: Layout, axes: Sequence[str], place: Sequence[int]) -> int:
    return rank_at(layout, coordinate(layout, 0)._replace(**dict(zip(axes, place, strict=True))))


def _cell(layout: Layout, rank: int, *, devices: bool) -> str:
    number = f"{rank:>{len(str(layout.world_size - 1))}}"
    if not devices:
        return number
    where = seat(layout, rank)
    several = layout.hosts is not None and len(layout.hosts) > 1
    name = layout.hosts[where.host] if several and layout.hosts else layout.accelerator
    return f"{number} {name[:LONGEST_HOST]}:{where.device}"


def _box(layout: Layout, pp: int, layers: int | None, grid: _Grid, signs: _Signs, width: int) -> list[str]:
    """The lines of one pipeline position, all of one width."""
    first = pp * (layout.world_size // layout.pp)
    inside = ["  ".join(f"{label:<{grid.cell}}" for label in grid.header)] if grid.header else []
    for row in grid.rows:
        cells = (_cell(layout, first + cell, devices=grid.devices) for cell in row.cells)
        inside.append("  ".join(f"{cell:<{grid.cell}}" for cell in cells))
    longest = max(len(_box_title(layout, at, layers, signs)) for at in range(layout.pp))
    room = min(max(longest, *map(len, inside), 0), width - 4)
    title = _box_title(layout, pp, layers, signs)
    if len(title) > room:
        title = title[: room - len(signs.more)] + signs.more
    top = f" {title} " if title else ""
    left, right, low_left, low_right = tuple(signs.corners)
    return [
        f"{left}{top:{signs.across}<{room + 2}}{right}",
        *(f"{signs.down} {line:<{room}} {signs.down}" for line in inside),
        f"{low_left}{signs.across * (room + 2)}{low_right}",
    ]


def _box_title(layout: Layout, pp: int, layers: int | None, signs: _Signs) -> str:
    if layout.stages is None:
        return "the whole model" if layers is None else f"all {layers} layers" if layers > 1 else "1 layer"
    spans = ", ".join(_span(part) for part in layers_at(layout, pp, sum(layout.stages)))
    return f"pp {pp}{signs.dot}layer{'' if spans.isdecimal() else 's'} {spans}"


def _seats(layout: Layout, devices: bool, signs: _Signs) -> Iterator[str]:
    """Which ranks run on which host, where the cells do not say it whole."""
    hosts = layout.hosts or ()
    each = layout.devices_per_host
    named = _span(layout.device_indices)
    if len(hosts) < 2:
        if not devices:
            yield f"ranks {_span(range(each))} on {layout.accelerator} {named}, in order"
        return
    for number, host in enumerate(hosts[:MOST_HOSTS]):
        ranks = _span(range(number * each, (number + 1) * each))
        yield f"{host}: rank{'s' if each > 1 else ''} {ranks} on {layout.accelerator} {named}"
    if len(hosts) > MOST_HOSTS:
        yield f"{signs.more} and {len(hosts) - MOST_HOSTS} more hosts"


def _span(numbers: Sequence[int]) -> str:
    """``0-7`` for neighbours, else all of them."""
    if len(numbers) > 1 and list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]}-{numbers[-1]}"
    return ", ".join(map(str, numbers))
