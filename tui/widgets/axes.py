"""Scales and their ticks: round numbers, few of them, and ranges that seldom move while a run goes on."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tui.text import short_duration

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_REACHES = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
"""Ends of an x axis, times a power of ten: at least two thirds of it are used, and it seldom moves."""
_FINE = 10
"""Steps in which the ends of a y axis move."""
_ROUND_SECONDS = (5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400)


@dataclass(frozen=True, slots=True)
class Scale:
    """Where values lie between two ends, and which of them are labelled."""

    low: float
    high: float
    log: bool
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high end; not finite for what a logarithm does not take."""
        if self.log:
            if value <= 0:
                return -math.inf
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value - self.low) / (self.high - self.low)


def nice_step(span: float, count: int) -> float:
    """The smallest round step of which at most ``count`` cover ``span``."""
    rough = span / max(1, count)
    magnitude = 10.0 ** math.floor(math.log10(rough))
    return next(step * magnitude for step in _STEPS if step * magnitude >= rough * (1 - 1e-9))


def linear_scale(low: float, high: float, count: int) -> Scale:
    """A scale over both values with at most about ``count`` ticks; its ends move in round steps, so seldom."""
    if not (math.isfinite(low) and math.isfinite(high)):
        low, high = 0.0, 1.0
    if high - low <= abs(high) * 1e-9:
        spread = abs(high) * 0.1 or 1.0
        low, high = low - spread, high + spread
    fine = nice_step(high - low, _FINE)
    low, high = math.floor(low / fine + 1e-9) * fine, math.ceil(high / fine - 1e-9) * fine
    for wanted in range(max(2, count), max(2, count) + _FINE):
        ticks = _ticks_within(low, high, nice_step(high - low, wanted))
        if len(ticks) >= 2:
            break
    return Scale(low=low, high=high, log=False, ticks=ticks)


def _ticks_within(low: float, high: float, step: float) -> tuple[float, ...]:
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(index * step for index in range(first, last + 1))


def log_scale(low: float, high: float, count: int) -> Scale:
    """A logarithmic scale over both values, which are positive, with at most about ``count`` ticks at round numbers."""
    if high / low < 1.0 + 1e-9:
        low, high = low / 1.1, high * 1.1
    fine = _round_numbers(low, high, (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0))
    low = max(value for value in fine if value <= low * (1 + 1e-9))
    high = min(value for value in fine if value >= high * (1 - 1e-9))
    best: list[float] = []
    for digits in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 2.0, 3.0, 5.0, 7.0), (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)):
        found = [value for value in _round_numbers(low, high, digits) if low * 0.999 <= value <= high * 1.001]
        if len(found) > max(2, count) and len(best) >= 2:
            break
        best = found if len(found) >= len(best) else best
    stride = max(1, -(-len(best) // max(2, count)))
    return Scale(low=low, high=high, log=True, ticks=tuple(best[::stride]))


def _round_numbers(low: float, high: float, digits: tuple[float, ...]) -> list[float]:
    """These digits times the powers of ten from below ``low`` to above ``high``."""
    first, last = math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1
    return [digit * 10.0**power for power in range(first, last + 1) for digit in digits]


def reach(last: float, limit: float | None = None) -> float:
    """The end of an x axis whose newest point is at ``last``: a round number at or past it, at most ``limit``."""
    if last <= 0:
        return min(10.0, limit) if limit else 10.0
    magnitude = 10.0 ** math.floor(math.log10(last))
    end = next(step * magnitude for step in _REACHES if step * magnitude >= last * (1 - 1e-9))
    return max(last, min(end, limit)) if limit else end


def x_scale(first: float, last: float, count: int, *, seconds: bool = False) -> Scale:
    """An x axis over exactly these ends, with ticks at round numbers (or round times) within them."""
    if last <= first:
        last = first + 1.0
    step = nice_step(last - first, count)
    if seconds and last - first > 30:
        rough = (last - first) / max(1, count)
        step = next((step for step in _ROUND_SECONDS if step >= rough), 86_400 * nice_step(rough / 86_400, 1))
    start = math.ceil(first / step - 1e-9)
    ticks = []
    while (value := start * step) <= last * (1 + 1e-9):
        ticks.append(value)
        start += 1
    return Scale(low=first, high=last, log=False, ticks=tuple(ticks))


def tick_labels(ticks: tuple[float, ...]) -> list[str]:
    """Labels with just as many decimals as tell them apart."""
    largest = max((abs(tick) for tick in ticks), default=0.0)
    if largest >= 1e4:
        return [_short(tick) for tick in ticks]
    if 0 < largest < 1e-2:
        return [_scientific(tick) for tick in ticks]
    for decimals in range(6):
        labels = [f"{tick:.{decimals}f}" for tick in ticks]
        exact = all(
            abs(float(label) - tick) <= abs(tick) * 1e-3 + 1e-12 for label, tick in zip(labels, ticks, strict=True)
        )
        if exact and len(set(labels)) == len(labels):
            return labels
    return [f"{tick:.3g}" for tick in ticks]


def _short(value: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _scientific(value: float) -> str:
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def x_label(name: str, value: float) -> str:
    """A tick of the x axis ``name`` (``step``, ``tokens`` or ``seconds``)."""
    if value == 0:
        return "0"
    if name == "seconds":
        return short_duration(value, even=True)
    if name == "tokens" or value >= 1e5:
        return _short(value)
    return f"{value:,.6g}"
