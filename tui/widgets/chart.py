"""The live chart: curves in a frame whose lower edge is the x axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

from textual.reactive import reactive

from tui.series import X_WORDS, XName
from tui.text import human_number
from tui.widgets.glyphs import drawing
from tui.widgets.painted import Painted, Row, fit_row, row_width
from tui.widgets.plot import Line, Picture, Plot, View


class Chart(Painted, can_focus=True):
    """Some curves over one x axis. ``lines`` are given once; ``repaint`` after their series grew."""

    x: reactive[XName] = reactive[XName]("step", init=False)
    log_y: reactive[bool] = reactive(False, init=False)

    def __init__(
        self, title: str, lines: Sequence[Line] = (), *, log_y: bool = False, id: str | None = None, classes: str = ""
    ) -> None:
        super().__init__(id=id, classes=classes)
        self._title = title
        self.lines: list[Line] = list(lines)
        self.x_end: float | None = None
        """Where the x axis must not go past; None where the end is not known."""
        self.set_reactive(Chart.log_y, log_y)
        self._plot = Plot()
        self._drawing = drawing()
        self._picture: Picture | None = None

    def watch_x(self) -> None:
        self.repaint()

    def watch_log_y(self) -> None:
        self.repaint()

    def heading(self) -> Row:
        return [(self._title, "title"), *([(" log", "label")] if self.log_y else [])]

    def aside(self, room: int) -> Row:
        """The legend with the newest values, with shorter names where there is no room for the long ones."""
        row: Row = []
        for names in ([line.name for line in self.lines], [line.short for line in self.lines], [""] * len(self.lines)):
            row = self._legend(names)
            if row_width(row) <= room:
                break
        return row

    def _legend(self, names: list[str]) -> Row:
        row: Row = []
        for line, name in zip(self.lines, names, strict=True):
            if not len(line.curve):
                continue
            value = line.curve.value(len(line.curve) - 1)
            words = human_number(value) if math.isfinite(value) else "not finite"
            name = f" {name} " if name else " "
            row += [("  " if row else "", ""), (line.symbol, line.style), (name, "label"), (words, "value")]
        return row

    def content(self, width: int, height: int) -> Sequence[Row]:
        if not any(len(line.curve) for line in self.lines):
            self._picture = None
            words = "no measurements yet"
            return [[]] * ((height - 1) // 2) + [[(words.center(width), "label")]]
        view = View(x=self.x, log_y=self.log_y, drawing=self._drawing, x_end=self.x_end if self.x == "step" else None)
        self._picture = self._plot.draw(self.lines, view, width, height, self.signs.tick)
        return self._picture.rows

    def footing(self, width: int) -> Row:
        if self._picture is None:
            return super().footing(width)
        return axis_row(self._picture, X_WORDS[self.x], width, self.signs.across)


def axis_row(picture: Picture, name: str, width: int, across: str) -> Row:
    """The x labels under their cells and the name of the axis at the right, on a line."""
    name = f" {name} "
    row: Row = []
    end = 0
    room = width - len(name) - 1
    for cell, label in picture.x_ticks:
        label = f" {label} "
        start = picture.label_width + cell - len(label) // 2
        if start < end or start + len(label) > room:
            continue
        row += [(across * (start - end), "frame"), (label, "label")]
        end = start + len(label)
    row += [(across * max(0, width - 1 - len(name) - end), "frame"), (name, "label"), (across, "frame")]
    return fit_row(row, width)
