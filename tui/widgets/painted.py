"""A framed pane that is painted as rows of styled text, and of which only changed cells are sent to the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from tui.widgets.glyphs import Glyphs, glyphs

Piece = tuple[str, str]
"""Text and the name of its style (see ``PALETTE``); no control characters."""
Row = list[Piece]

PALETTE = (
    "text", "label", "frame", "title", "value", "strong", "accent", "good", "warning", "bad", "live",
    "train", "train-raw", "validation", "validation-raw", "third", "third-raw", "fourth", "fourth-raw",
    "bar", "bar-rest", "tab", "tab-on",
)  # fmt: skip
"""Names of the styles that a piece can have; each is a component class ``painted--<name>``."""
_PLAIN = Style.null()
_NEAR = 4
"""Unchanged cells between two changed ones that are not worth a cursor movement."""


class Painted(Widget):
    """A pane with a frame, a title, and content from :meth:`content`; ``repaint`` redraws what became different."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"painted--{name}" for name in PALETTE}
    DEFAULT_CSS = """
    Painted {
        width: 1fr;
        height: 1fr;
        color: $foreground;
        &> .painted--text { color: $foreground; }
        &> .painted--label { color: $foreground-muted; }
        &> .painted--frame { color: $foreground 25%; }
        &> .painted--title { color: $foreground-muted; text-style: bold; }
        &> .painted--value { color: $foreground; }
        &> .painted--strong { color: $foreground; text-style: bold; }
        &> .painted--accent { color: $primary; }
        &> .painted--good { color: $success; }
        &> .painted--warning { color: $warning; }
        &> .painted--bad { color: $error; text-style: bold; }
        &> .painted--live { color: $success; text-style: bold; }
        &> .painted--train { color: $primary; text-style: bold; }
        &> .painted--train-raw { color: $primary 45%; }
        &> .painted--validation { color: $warning; text-style: bold; }
        &> .painted--validation-raw { color: $warning 45%; }
        &> .painted--third { color: $success; }
        &> .painted--third-raw { color: $success 45%; }
        &> .painted--fourth { color: $accent; }
        &> .painted--fourth-raw { color: $accent 45%; }
        &> .painted--bar { color: $primary; }
        &> .painted--bar-rest { color: $foreground 20%; }
        &> .painted--tab { color: $foreground-muted; }
        &> .painted--tab-on { color: $foreground; text-style: bold; }
    }
    Painted:focus {
        &> .painted--frame { color: $primary; }
        &> .painted--title { color: $foreground; text-style: bold; }
    }
    """
    framed: ClassVar[bool] = True

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._rows: list[Row] = []
        self._strips: list[Strip] = []
        self._painted_styles: dict[str, Style] = {}
        self._signs = glyphs()

    # ------------------------------------------------------------------ what subclasses say

    def content(self, width: int, height: int) -> Sequence[Row]:
        """The rows inside the frame; missing ones are empty, surplus ones are not shown."""
        raise NotImplementedError

    def heading(self) -> Row:
        """The pane's title, at the left of its upper edge."""
        return []

    def aside(self, room: int) -> Row:
        """At the right of the upper edge; what needs more than ``room`` cells is left out."""
        return []

    def footing(self, width: int) -> Row:
        """The lower edge between its corners."""
        return [(self.signs.across * width, "frame")]

    @property
    def signs(self) -> Glyphs:
        return self._signs

    # ------------------------------------------------------------------ painting

    def repaint(self) -> None:
        """Paint anew and redraw the cells that differ from what is on the screen."""
        width, height = self.size
        if not self.is_mounted or width <= 0 or height <= 0:
            return
        rows = self._compose_rows(width, height)
        if len(rows) != len(self._rows) or (self._strips and self._strips[0].cell_length != width):
            self._rows, self._strips = rows, [self._strip(row, width) for row in rows]
            self.refresh()
            return
        regions = []
        for y, (new, old) in enumerate(zip(rows, self._rows, strict=True)):
            if new != old:
                regions += [Region(start, y, end - start, 1) for start, end in changed_spans(old, new)]
                self._strips[y] = self._strip(new, width)
        self._rows = rows
        if regions:
            self.refresh(*regions)

    def render_line(self, y: int) -> Strip:
        if y >= len(self._strips):
            return Strip.blank(self.size.width, _PLAIN)
        return self._strips[y]

    def on_resize(self) -> None:
        self._rows = []
        self.repaint()

    def on_focus(self) -> None:
        self._restyle()

    def on_blur(self) -> None:
        self._restyle()

    def notify_style_update(self) -> None:
        """The theme or a pseudo class changed: colours are looked up again."""
        super().notify_style_update()
        self._restyle()

    def _restyle(self) -> None:
        self._painted_styles.clear()
        if self._strips:
            width = self._strips[0].cell_length
            self._strips = [self._strip(row, width) for row in self._rows]
            self.refresh()

    def _compose_rows(self, width: int, height: int) -> list[Row]:
        if not self.framed:
            rows = [fit_row(row, width) for row in self.content(width, height)[:height]]
            return rows + [[(" " * width, "")]] * (height - len(rows))
        if width < 4 or height < 2:
            return [[(" " * width, "")]] * height
        inner = width - 2
        signs = self.signs
        body = [fit_row(row, inner) for row in self.content(inner, height - 2)[: height - 2]]
        body += [[(" " * inner, "")]] * (height - 2 - len(body))
        return [
            self._upper_edge(width),
            *([(signs.down, "frame"), *row, (signs.down, "frame")] for row in body),
            [(signs.bottom_left, "frame"), *self.footing(inner), (signs.bottom_right, "frame")],
        ]

    def _upper_edge(self, width: int) -> Row:
        signs = self.signs
        left = self.heading()
        room = width - 4
        space = room - row_width(left) - 6
        right = self.aside(space)
        if row_width(right) > space:
            right = []
        row: Row = [(signs.top_left + signs.across, "frame")]
        if left:
            row += [(" ", ""), *fit_row(left, min(row_width(left), max(0, room - 2))), (" ", "")]
        tail: Row = [(" ", ""), *right, (" ", ""), (signs.across, "frame")] if right else []
        gap = width - row_width(row) - row_width(tail) - 1
        return [*row, (signs.across * max(0, gap), "frame"), *tail, (signs.top_right, "frame")]

    def _strip(self, row: Row, width: int) -> Strip:
        if self.signs.is_ascii:
            row = [(text if text.isascii() else _ascii(text), name) for text, name in row]
        return Strip([Segment(text, self._style(name)) for text, name in row if text], width)

    def _style(self, name: str) -> Style:
        if not name:
            return _PLAIN
        style = self._painted_styles.get(name)
        if style is None:
            full = self.get_component_rich_style(f"painted--{name}")
            style = Style(color=full.color, bold=full.bold, reverse=full.reverse, dim=full.dim, italic=full.italic)
            self._painted_styles[name] = style
        return style


def row_width(row: Sequence[Piece]) -> int:
    """Cells that the pieces take."""
    return sum(cell_len(text) for text, _ in row)


def fit_row(row: Sequence[Piece], width: int) -> Row:
    """``row`` cut or padded to exactly ``width`` cells."""
    fitted: Row = []
    left = width
    for text, style in row:
        size = cell_len(text)
        if size > left:
            text, size = set_cell_size(text, left), left
        if text:
            fitted.append((text, style))
        left -= size
        if left <= 0:
            break
    if left > 0:
        fitted.append((" " * left, ""))
    return fitted


def _ascii(text: str) -> str:
    """Question marks for what is beyond ASCII, as many as it has cells."""
    return "".join(sign if sign.isascii() else "?" * cell_len(sign) for sign in text)


def spread(left: Sequence[Piece], right: Sequence[Piece], width: int) -> Row:
    """``left`` at the left and ``right`` at the right of ``width`` cells; the left gives way."""
    room = width - row_width(right)
    return [*fit_row(left, max(0, room)), *right]


def changed_spans(old: Row, new: Row) -> list[tuple[int, int]]:
    """Where two rows of one width differ, as ``(start, end)`` cells; near ones are taken together."""
    before, after = _cells(old), _cells(new)
    if len(before) != len(after):
        return [(0, max(len(before), len(after)))]
    spans: list[tuple[int, int]] = []
    for index, (one, other) in enumerate(zip(before, after, strict=True)):
        if one != other:
            if spans and index - spans[-1][1] <= _NEAR:
                spans[-1] = (spans[-1][0], index + 1)
            else:
                spans.append((index, index + 1))
    return spans


def _cells(row: Row) -> list[Piece]:
    """One entry for each cell: a wide character is followed by an empty one, and marks go with their letter."""
    cells: list[Piece] = []
    for text, style in row:
        if cell_len(text) == len(text):
            cells += [(character, style) for character in text]
            continue
        for character in text:
            size = cell_len(character)
            if size == 0 and cells:
                cells[-1] = (cells[-1][0] + character, style)
            else:
                cells += [(character, style), *[("", style)] * (size - 1)]
    return cells
