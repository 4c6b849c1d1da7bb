"""Drawing curves: from series to rows of styled text. Pure: no Textual, no clock, no terminal.

For every dot column the lowest and the highest value are drawn, so thinning loses no extreme. A smoothed curve
lies over the raw one: an exponential average over the columns of the chart (as W&B's time-weighted one over the
width of the axis), so that it looks alike at any length of run and does not move when points are added.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass

from tui.series import Curve, Stretch, XName
from tui.widgets.axes import Scale, linear_scale, log_scale, reach, tick_labels, x_label, x_scale
from tui.widgets.glyphs import Drawing
from tui.widgets.raster import Raster

SMOOTHING = 0.8
"""Weight of the average so far at the next dot column: a half-life of three columns."""
LABEL_WIDTH = 5
"""Cells of the y labels: fixed, so that curves of charts above each other stand above each other."""
Row = list[tuple[str, str]]
"""A line of the screen: pieces of text with the name of their style."""


@dataclass(frozen=True, slots=True)
class Line:
    """One curve of a chart."""

    name: str
    curve: Curve
    style: str
    """Name of its style; the raw curve under a smoothed one has ``<style>-raw``."""
    symbol: str
    smooth: bool = False
    short: str = ""
    """Name where there is little room."""
    marked: bool = False
    """Whether its points stand as symbols, without a line, while there is room for that."""


@dataclass(frozen=True, slots=True)
class View:
    """How a chart is looked at."""

    x: XName = "step"
    log_y: bool = False
    drawing: Drawing = "braille"
    x_end: float | None = None
    """Where the axis must not go past: the planned last step."""


@dataclass(frozen=True, slots=True)
class Column:
    """What a curve does in one dot column."""

    first: float
    last: float
    stretch: Stretch
    joined: bool
    """Whether a line leads here from the column before: there is no gap between."""


class Columns:
    """The dot columns of one curve; of those known before only the last is looked at again."""

    def __init__(self) -> None:
        self._key: object = None
        self._known: dict[int, Column] = {}
        self._points = 0

    def of(self, curve: Curve, x: XName, first: float, last: float, count: int) -> dict[int, Column]:
        """Column number -> what is there, for the ``count`` columns from ``first`` to ``last``."""
        key = (id(curve), curve.generation, x, first, last, count)
        points = len(curve)
        if key != self._key:
            self._key, self._known, self._points = key, {}, 0
        if points != self._points:
            self._add(curve, curve.x(x), first, last, count)
            self._points = points
        return self._known

    def _add(self, curve: Curve, xs: array[float], first: float, last: float, count: int) -> None:
        width = (last - first) / max(1, count - 1)
        index, joined = bisect_left(xs, first), False
        if self._points:
            # Only columns from that of the newest known point on can have changed.
            begin = max(0, int((xs[self._points - 1] - first) / width + 0.5))
            index = max(index, bisect_left(xs, first + (begin - 0.5) * width))
            joined = begin in self._known and self._known[begin].joined
        end = bisect_right(xs, last)
        while index < end:
            number = min(count - 1, max(0, int((xs[index] - first) / width + 0.5)))
            past = max(index + 1, bisect_left(xs, first + (number + 0.5) * width, index, end))
            stretch = curve.stretch(index, past)
            if stretch is None:
                joined = False
            else:
                broken = stretch.gap and math.isnan(curve.value(index))
                self._known[number] = Column(
                    first=stretch.mean if broken else curve.value(index),
                    last=stretch.mean if stretch.gap else curve.value(past - 1),
                    stretch=stretch,
                    joined=joined and not broken,
                )
                joined = not (stretch.gap and math.isnan(curve.value(past - 1)))
            index = past


def smooth(columns: dict[int, Column], log: bool = False) -> dict[int, tuple[float, bool]]:
    """``column -> (smoothed mean, joined)``: the mean of an exponential average from either side, so without lag."""
    numbers = sorted(columns)
    means = [columns[number].stretch.mean for number in numbers]
    if log:
        means = [math.log(mean) if mean > 0 else -math.inf for mean in means]
    forward = _average(numbers, means)
    backward = _average([-number for number in reversed(numbers)], means[::-1])[::-1]
    both = [(one + other) / 2 for one, other in zip(forward, backward, strict=True)]
    return {
        number: (math.exp(value) if log else value, columns[number].joined)
        for number, value in zip(numbers, both, strict=True)
    }


def _average(places: list[int], values: list[float]) -> list[float]:
    """Exponential averages along ascending places, without the bias towards the first value."""
    weight = total = 0.0
    before = places[0] if places else 0
    found = []
    for place, value in zip(places, values, strict=True):
        decay = SMOOTHING ** (place - before)
        total, weight = total * decay + value, weight * decay + 1.0
        found.append(total / weight)
        before = place
    return found


@dataclass(frozen=True, slots=True)
class Picture:
    """A chart without its frame."""

    rows: list[Row]
    """The y labels and the curves."""
    label_width: int
    """Cells before the first column of the curves."""
    x_ticks: list[tuple[int, str]]
    """Cell of the curves' area and label."""


class Plot:
    """A chart of some curves; keeps what it found out about them between two drawings."""

    def __init__(self) -> None:
        self._columns: dict[int, Columns] = {}

    def draw(self, lines: list[Line], view: View, width: int, height: int, tick: str) -> Picture:
        """The chart in ``width`` x ``height`` cells, the y labels included; ``tick`` joins a label to the area."""
        last = max((line.curve.x(view.x)[-1] for line in lines if len(line.curve)), default=0.0)
        first, end = 0.0, reach(last, view.x_end)
        labels_width = LABEL_WIDTH
        raster = Raster(max(1, width - labels_width - 1), height, view.drawing)
        found = [self._found(index, line, view, first, end, raster.columns) for index, line in enumerate(lines)]
        y = _y_scale(found, view.log_y, height)
        labels = _labels(y, height)
        for line, columns in zip(lines, found, strict=True):
            _draw_line(raster, line, columns, y)
        rows = []
        for number, pieces in enumerate(raster.lines()):
            label = labels.get(number, "")
            rows.append([(f"{label:>{labels_width}}", "label"), (tick if label else " ", "frame"), *pieces])
        ticks = x_scale(first, end, max(2, raster.width // 14), seconds=view.x == "seconds")
        x_ticks = [(round(ticks.place(value) * (raster.width - 1)), x_label(view.x, value)) for value in ticks.ticks]
        return Picture(rows=rows, label_width=labels_width + 1, x_ticks=x_ticks)

    def _found(self, index: int, line: Line, view: View, first: float, last: float, count: int) -> dict[int, Column]:
        return self._columns.setdefault(index, Columns()).of(line.curve, view.x, first, last, count)


def _y_scale(found: list[dict[int, Column]], log: bool, height: int) -> Scale:
    low = min((column.stretch.low for columns in found for column in columns.values()), default=math.inf)
    high = max((column.stretch.high for columns in found for column in columns.values()), default=-math.inf)
    count = max(2, min(6, (height + 1) // 2))
    if log and low > 0 and math.isfinite(high):
        return log_scale(low, high, count)
    return linear_scale(low, high, count)


def _labels(scale: Scale, height: int) -> dict[int, str]:
    """Row -> label; where two fall on one row, the one nearer the ends stays."""
    labels: dict[int, str] = {}
    texts = tick_labels(scale.ticks)
    order = sorted(range(len(texts)), key=lambda index: min(index, len(texts) - 1 - index))
    for index in order:
        row = round((1 - scale.place(scale.ticks[index])) * (height - 1))
        labels.setdefault(row, texts[index])
    return labels


def _draw_line(raster: Raster, line: Line, columns: dict[int, Column], y: Scale) -> None:
    bottom = raster.rows - 1

    def dot(value: float) -> int:
        place = y.place(value)
        return bottom if place == -math.inf else round((1 - place) * bottom)

    if line.marked and len(columns) <= raster.width:
        for number, column in columns.items():
            raster.sign(number, dot(column.last), line.symbol, line.style)
        return
    many = any(column.stretch.count > 1 for column in columns.values()) or len(columns) > raster.columns // 4
    smoothed = line.smooth and many and len(columns) > 8
    raw_style = f"{line.style}-raw" if smoothed else line.style
    raster.name_style(raw_style, "." if smoothed else line.symbol)
    raster.name_style(line.style, line.symbol)
    pen = _Pen(raster, raw_style)
    for number in sorted(columns):
        column = columns[number]
        pen.move(number, dot(column.first), column.joined)
        raster.span(number, dot(column.stretch.low), dot(column.stretch.high), raw_style)
        pen.last = (number, dot(column.last))
    if smoothed:
        pen = _Pen(raster, line.style)
        for number, (value, joined) in smooth(columns, y.log).items():
            pen.move(number, dot(value), joined)


class _Pen:
    """Draws straight strokes from column to column."""

    def __init__(self, raster: Raster, style: str) -> None:
        self._raster = raster
        self._style = style
        self.last: tuple[int, int] | None = None

    def move(self, column: int, row: int, down: bool) -> None:
        """To a dot; with the pen down if the curve is joined to the dot before."""
        if down and self.last is not None:
            start, height = self.last
            steps = column - start
            before = height
            for step in range(1, steps + 1):
                here = height + round((row - height) * step / steps)
                nearest = before + (1 if here > before else -1 if here < before else 0)
                self._raster.span(start + step, nearest, here, self._style)
                before = here
        else:
            self._raster.span(column, row, row, self._style)
        self.last = (column, row)
