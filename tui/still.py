"""Still pictures of a run's curves as text: for ``--once``, for logs and for terminals that cannot do more.

The only importer of plotext. Its cost grows with the number of points, so each curve is thinned first to the
lowest and the highest value of every column.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from typing import Any

import plotext

from tui.series import X_WORDS, Curve, XName
from tui.state import RunView
from tui.text import ascii_wanted, human_number
from tui.widgets.axes import linear_scale, log_scale, tick_labels, x_label, x_scale
from tui.widgets.plot import Columns

_SIGNS = {"train": ("braille", "━"), "validation": ("◆", "◆")}
"""plotext's marker and the sign of the legend."""
_ASCII_SIGNS = {"train": ("*", "*"), "validation": ("o", "o")}
_TO_ASCII = str.maketrans("┌┐└┘─│┤├┬┴┼", "++++-|||+++")
_LEAST = (40, 8)
"""Cells below which a picture says nothing."""


def still_charts(
    view: RunView, *, width: int | None = None, height: int = 12, colour: bool = False, x: XName = "step"
) -> str:  # fmt: skip
    """Loss and perplexity of a run, one under the other, each ``width`` x ``height`` cells.

    The terminal's width where none is given. The text holds no escape sequences unless ``colour`` is set.
    """
    width = max(_LEAST[0], width or min(120, shutil.get_terminal_size().columns))
    pictures = [
        still_chart(view, what, width=width, height=height, colour=colour, x=x) for what in ("loss", "perplexity")
    ]
    return "\n\n".join(pictures)


def still_chart(
    view: RunView, what: str, *, width: int, height: int, colour: bool = False, x: XName = "step"
) -> str:  # fmt: skip
    """``what`` (``loss`` or ``perplexity``) in training and validation; perplexity on a logarithmic axis."""
    curves = {name: view.series[f"{name}_{what}"] for name in ("train", "validation")}
    known = {name: curve for name, curve in curves.items() if curve.stretch(0, len(curve)) is not None}
    if not known:
        return f"{what}: no measurements yet"
    last = max(curve.x(x)[-1] for curve in known.values()) or 1.0
    points = {name: thinned(curve, x, last, 2 * width) for name, curve in known.items()}
    figure: Any = plotext.figure
    figure.clear()
    figure.plot_size(max(_LEAST[0], width), max(_LEAST[1], height))
    if not colour:
        figure.theme("colorless")
    plain = ascii_wanted()
    signs = _ASCII_SIGNS if plain else _SIGNS
    everything = [y for _, ys in points.values() for y in ys]
    log = what == "perplexity" and min(everything) > 0
    # plotext's own logarithmic axis does not take limits: it is given logarithms instead, and our labels.
    place: Callable[[float], float] = math.log10 if log else float
    for name, (xs, ys) in points.items():
        signal = figure.signal(xs, [place(y) for y in ys], marker=signs[name][0])
        figure.draw(signal.lines() if name == "train" else signal)
    scale = (log_scale if log else linear_scale)(min(everything), max(everything), max(2, height // 3))
    figure.ruler("y").lim(place(scale.low), place(scale.high))
    figure.ruler("y").ticks([place(tick) for tick in scale.ticks], tick_labels(scale.ticks))
    ticks = x_scale(0.0, last, max(2, width // 14), seconds=x == "seconds").ticks
    figure.ruler("x").lim(0.0, last)
    figure.ruler("x").ticks(list(ticks), [x_label(x, tick) for tick in ticks])
    # Not plotext's own legend: it lies over the beginning of the curve, which is what falls fastest.
    newest = [f"{signs[name][1]} {name} {human_number(curve.value(len(curve) - 1))}" for name, curve in known.items()]
    text: str = figure.build().string(not colour)
    lines = [f"{what} by {X_WORDS[x]}    " + "    ".join(newest), *text.splitlines()]
    return "\n".join(line.translate(_TO_ASCII).rstrip() if plain else line.rstrip() for line in lines)


def thinned(curve: Curve, x: XName, last: float, columns: int) -> tuple[list[float], list[float]]:
    """At most two points for each column: its lowest and its highest. Gaps are left out."""
    width = last / max(1, columns - 1)
    xs: list[float] = []
    ys: list[float] = []
    for number, column in sorted(Columns().of(curve, x, 0.0, last or 1.0, columns).items()):
        low, high = column.stretch.low, column.stretch.high
        rising = abs(column.first - low) <= abs(column.first - high)
        for value in dict.fromkeys((low, high) if rising else (high, low)):
            if math.isfinite(value):
                xs.append(number * width)
                ys.append(value)
    return xs, ys
