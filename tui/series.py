"""Long curves in little memory, from which a chart of any width is drawn in a few milliseconds.

Points lie in ``array('d')`` columns that share their x values. Every 256 points are summarised once (lowest,
highest, sum), so that the extremes of any stretch are found without touching all of its points, and no extreme
is ever lost by thinning. A value that is not finite is NaN: a gap, not a zero.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

BLOCK = 256
"""Points summarised together: a chart column costs at most two of these and a few summaries."""
NAN = math.nan
XName = Literal["step", "tokens", "seconds"]
X_NAMES: tuple[XName, ...] = ("step", "tokens", "seconds")
X_WORDS: dict[XName, str] = {"step": "step", "tokens": "tokens", "seconds": "trained time"}


@dataclass(frozen=True, slots=True)
class Stretch:
    """What is known of the finite points in a stretch of a curve."""

    low: float
    high: float
    mean: float
    count: int
    gap: bool
    """Whether the stretch also has points that are not finite."""


class Curve(Protocol):
    """What a chart needs of a series."""

    @property
    def generation(self) -> int:
        """Changes when points were taken away or replaced, and not when some were added."""

    def __len__(self) -> int: ...
    def x(self, name: XName) -> array[float]:
        """The x values, ascending."""

    def value(self, index: int) -> float:
        """One point; NaN where there is a gap."""

    def stretch(self, start: int, end: int) -> Stretch | None:
        """Summary of the points ``start <= i < end``; None if there are none at all or none is finite."""

    def gaps(self, start: int, end: int) -> int:
        """How many points of the stretch are not finite."""


class Table:
    """Columns of measurements that were taken together: their x values once, and a :class:`Series` each."""

    def __init__(self, names: Iterable[str]) -> None:
        self.axes: dict[XName, array[float]] = {name: array("d") for name in X_NAMES}
        self.series: dict[str, Series] = {name: Series(self) for name in names}
        self.generation = 0

    def __len__(self) -> int:
        return len(self.axes["step"])

    def append(self, step: float, tokens: float, seconds: float, values: Sequence[float | None]) -> None:
        """Add one row; ``values`` in the order of the columns. Rows at this step or later are replaced."""
        steps = self.axes["step"]
        if steps and step <= steps[-1]:
            self.truncate(bisect_left(steps, step))
        self.axes["step"].append(step)
        self.axes["tokens"].append(tokens)
        self.axes["seconds"].append(seconds)
        for series, value in zip(self.series.values(), values, strict=True):
            series.push(value)

    def extend(self, axes: Sequence[array[float]], columns: Sequence[array[float]]) -> None:
        """Add many rows whose steps ascend."""
        steps = self.axes["step"]
        if steps and axes[0] and axes[0][0] <= steps[-1]:
            self.truncate(bisect_left(steps, axes[0][0]))
        for name, more in zip(X_NAMES, axes, strict=True):
            self.axes[name].extend(more)
        for series, column in zip(self.series.values(), columns, strict=True):
            series.extend(column)

    def drop_after(self, step: float) -> None:
        """Forget the rows of steps later than ``step``: a resumed run makes them again."""
        self.truncate(bisect_left(self.axes["step"], math.nextafter(step, math.inf)))

    def truncate(self, length: int) -> None:
        if length >= len(self):
            return
        for axis in self.axes.values():
            del axis[length:]
        for series in self.series.values():
            series.truncate(length)
        self.generation += 1


class Series:
    """One column of a :class:`Table`."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self.y: array[float] = array("d")
        self._gaps: array[int] = array("q")
        self._lows: array[float] = array("d")
        self._highs: array[float] = array("d")
        self._sums: array[float] = array("d")

    def __len__(self) -> int:
        return len(self.y)

    @property
    def generation(self) -> int:
        return self._table.generation

    @property
    def last(self) -> float | None:
        """The newest value; None if there is none or it is not finite."""
        return self.y[-1] if self.y and math.isfinite(self.y[-1]) else None

    def x(self, name: XName) -> array[float]:
        return self._table.axes[name]

    def value(self, index: int) -> float:
        return self.y[index]

    def push(self, value: float | None) -> None:
        if value is None or not math.isfinite(value):
            self._gaps.append(len(self.y))
            value = NAN
        self.y.append(value)

    def extend(self, values: array[float]) -> None:
        start = len(self.y)
        self.y.extend(values)
        if not math.isfinite(sum(values)):  # one pass in C says whether there is anything to look for
            for index in range(start, len(self.y)):
                if not math.isfinite(self.y[index]):
                    self.y[index] = NAN
                    self._gaps.append(index)

    def truncate(self, length: int) -> None:
        del self.y[length:]
        del self._gaps[bisect_left(self._gaps, length) :]
        for summary in (self._lows, self._highs, self._sums):
            del summary[length // BLOCK :]

    def gaps(self, start: int, end: int) -> int:
        if not self._gaps:
            return 0
        return bisect_left(self._gaps, end) - bisect_left(self._gaps, start)

    def stretch(self, start: int, end: int) -> Stretch | None:
        end = min(end, len(self.y))
        gaps = self.gaps(start, end)
        count = end - start - gaps
        if count <= 0:
            return None
        first, past = -(-start // BLOCK), end // BLOCK
        if first >= past:
            low, high, total = self._scan(start, end)
            return Stretch(low, high, total / count, count, gaps > 0)
        self._summarise(past)
        left, right = self._scan(start, first * BLOCK), self._scan(past * BLOCK, end)
        low = min(left[0], right[0], *self._lows[first:past])
        high = max(left[1], right[1], *self._highs[first:past])
        total = left[2] + right[2] + sum(self._sums[first:past])
        return Stretch(low, high, total / count, count, gaps > 0)

    def _scan(self, start: int, end: int) -> tuple[float, float, float]:
        """Lowest, highest and sum of the finite points; ``(inf, -inf, 0)`` if there are none."""
        points: Sequence[float] = self.y[start:end]
        if self.gaps(start, end):
            points = [point for point in points if not math.isnan(point)]
        if not points:
            return math.inf, -math.inf, 0.0
        return min(points), max(points), sum(points)

    def _summarise(self, blocks: int) -> None:
        for block in range(len(self._lows), blocks):
            low, high, total = self._scan(block * BLOCK, (block + 1) * BLOCK)
            self._lows.append(low)
            self._highs.append(high)
            self._sums.append(total)


class Derived:
    """A rising function of a series, such as perplexity of a loss: nothing is stored twice.

    The mean of a stretch is the function of the mean: for perplexity that is the perplexity of all its tokens.
    """

    def __init__(self, source: Series, function: Callable[[float], float]) -> None:
        self._source = source
        self._function = function

    def __len__(self) -> int:
        return len(self._source)

    @property
    def generation(self) -> int:
        return self._source.generation

    @property
    def last(self) -> float | None:
        """The newest value; None if there is none or it is not finite."""
        value = self.value(len(self) - 1) if len(self) else NAN
        return value if math.isfinite(value) else None

    def x(self, name: XName) -> array[float]:
        return self._source.x(name)

    def value(self, index: int) -> float:
        return self._function(self._source.value(index))

    def gaps(self, start: int, end: int) -> int:
        return self._source.gaps(start, end)

    def stretch(self, start: int, end: int) -> Stretch | None:
        found = self._source.stretch(start, end)
        if found is None:
            return None
        low, high, mean = self._function(found.low), self._function(found.high), self._function(found.mean)
        if not math.isfinite(high):
            return None
        return Stretch(low, high, mean, found.count, found.gap)


def perplexity(loss: float) -> float:
    """``exp(loss)``, the branching factor of a model with that cross-entropy in nats; NaN where it overflows."""
    try:
        return math.exp(loss)
    except OverflowError:
        return NAN
