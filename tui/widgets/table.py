"""A light list with columns: rows have keys, and a refresh redraws only the rows that changed.

The cursor stays on its row by key, whatever the refresh moves around it. Narrow terminals drop the least
important columns instead of scrolling sideways. Cells hold plain text: what looks like markup is shown as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tui.actions import bindings
from tui.text import ascii_wanted, fit, printable


@dataclass(frozen=True, kw_only=True)
class Column:
    """How one column looks."""

    title: str
    width: int
    """Cells; for the one column with ``flexible``, the least it takes."""
    right: bool = False
    flexible: bool = False
    """Takes what the others leave."""
    rank: int = 0
    """Columns with higher ranks are dropped first when the room is short; 0 never is."""


@dataclass(frozen=True)
class Cell:
    """Text with its tone: ``dim good live warning bad accent strong`` or nothing."""

    text: str
    tone: str = ""


@dataclass(frozen=True)
class Row:
    """One line of the list."""

    key: str
    cells: tuple[Cell, ...]


class Table(ScrollView, can_focus=True):
    """See the module. Posts :class:`Moved` and :class:`Opened`."""

    BINDINGS = bindings("list")
    DEFAULT_CSS = """
    Table { background: transparent; scrollbar-size-horizontal: 0; overflow-x: hidden; }
    Table > .table--header { color: $secondary; text-style: underline; }
    Table > .table--cursor { background: $block-cursor-background; color: $block-cursor-foreground; }
    Table > .table--cursor-blurred { background: $panel; }
    Table > .table--dim { color: $secondary; }
    Table > .table--good { color: $success; }
    Table > .table--live { color: $success; text-style: bold; }
    Table > .table--warning { color: $warning; }
    Table > .table--bad { color: $error; }
    Table > .table--accent { color: $primary; }
    Table > .table--strong { text-style: bold; }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "table--header", "table--cursor", "table--cursor-blurred", "table--dim", "table--good", "table--live",
        "table--warning", "table--bad", "table--accent", "table--strong",
    }  # fmt: skip

    cursor: reactive[int] = reactive(0)

    @dataclass
    class Moved(Message):
        """The cursor stands on another row; ``key`` is None when there is none."""

        table: Table
        key: str | None
        by_hand: bool = False
        """By a key or a click, and not because the rows are others."""

    @dataclass
    class Opened(Message):
        """A click on the row under the cursor; enter is the screen's to bind."""

        table: Table
        key: str

    def __init__(self, columns: Sequence[Column], *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._columns = tuple(columns)
        self._rows: tuple[Row, ...] = ()
        self._shown: list[tuple[int, int]] = []

    @property
    def selected(self) -> str | None:
        """Key of the row under the cursor."""
        return self._rows[self.cursor].key if self._rows else None

    @property
    def rows(self) -> tuple[Row, ...]:
        return self._rows

    def show(self, rows: Sequence[Row]) -> None:
        """Replace the rows; the cursor follows its key, else keeps its place."""
        before, old_key, old_cursor = self._rows, self.selected, self.cursor
        self._rows = tuple(rows)
        cursor = next((index for index, row in enumerate(self._rows) if row.key == old_key), None)
        if cursor is None:
            cursor = min(old_cursor, max(0, len(self._rows) - 1))
        if len(before) != len(self._rows):
            self.virtual_size = Size(self.size.width, len(self._rows) + 1)
            self.refresh()
        else:
            for index, (old, new) in enumerate(zip(before, self._rows, strict=True)):
                if old != new:
                    self._refresh_row(index)
        self.cursor = cursor
        if self.selected != old_key:
            self.post_message(self.Moved(self, self.selected))

    def select(self, key: str) -> bool:
        """Put the cursor on the row with ``key``; False if there is none."""
        for index, row in enumerate(self._rows):
            if row.key == key:
                self.cursor = index
                return True
        return False

    def validate_cursor(self, cursor: int) -> int:
        return max(0, min(cursor, len(self._rows) - 1))

    def watch_cursor(self, old: int, new: int) -> None:
        self._refresh_row(old)
        self._refresh_row(new)
        # Row 0 lies under the header line, which does not scroll.
        top, height = round(self.scroll_y), self.size.height - 1
        if new < top:
            self.scroll_to(y=new, animate=False, force=True)
        elif height > 0 and new >= top + height:
            self.scroll_to(y=new - height + 1, animate=False, force=True)

    def action_move(self, lines: int) -> None:
        self._go(self.cursor + lines)

    def action_page(self, pages: int) -> None:
        self._go(self.cursor + pages * max(1, self.size.height - 2))

    def action_first(self) -> None:
        self._go(0)

    def action_last(self) -> None:
        self._go(len(self._rows) - 1)

    def _go(self, cursor: int) -> None:
        before = self.cursor
        self.cursor = cursor
        if self.cursor != before:
            self.post_message(self.Moved(self, self.selected, by_hand=True))

    def on_click(self, event: events.Click) -> None:
        index = event.y - 1 + round(self.scroll_y)
        if event.y == 0 or index >= len(self._rows):
            return
        if index == self.cursor:
            self.post_message(self.Opened(self, self._rows[index].key))
        self._go(index)

    def on_resize(self) -> None:
        self.virtual_size = Size(self.size.width, len(self._rows) + 1)
        self._shown = self._arrange(self.size.width)
        self.watch_cursor(self.cursor, self.cursor)

    def on_focus(self) -> None:
        self._refresh_row(self.cursor)

    def on_blur(self) -> None:
        self._refresh_row(self.cursor)

    def _refresh_row(self, index: int) -> None:
        y = index + 1 - round(self.scroll_y)
        if 1 <= y < self.size.height:
            self.refresh(Region(0, y, self.size.width, 1))

    def _arrange(self, width: int) -> list[tuple[int, int]]:
        """``(column, width)`` of the columns that fit, in order."""
        kept = list(range(len(self._columns)))

        def needed() -> int:
            return sum(self._columns[index].width + 2 for index in kept) + 2

        while needed() > width and any(self._columns[index].rank for index in kept):
            kept.remove(max(kept, key=lambda index: self._columns[index].rank))
        spare = max(0, width - needed())
        return [(index, self._columns[index].width + (spare if self._columns[index].flexible else 0)) for index in kept]

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        base = self.rich_style
        if y == 0:
            style = base + self.get_component_rich_style("table--header", partial=True)
            titles = [Cell(column.title) for column in self._columns]
            return self._line(titles, style, "  ", width, tones=False)
        index = y - 1 + round(self.scroll_y)
        if index >= len(self._rows):
            return Strip([Segment(" " * width, base)], width)
        here = index == self.cursor
        if here:
            name = "table--cursor" if self.has_focus else "table--cursor-blurred"
            base += self.get_component_rich_style(name, partial=True)
        mark = (">" if ascii_wanted() else "▌") if here else " "
        return self._line(self._rows[index].cells, base, f"{mark} ", width, tones=True)

    def _line(self, cells: Sequence[Cell], base: Style, lead: str, width: int, *, tones: bool) -> Strip:
        accent = self.get_component_rich_style("table--accent", partial=True)
        segments = [Segment(lead, base + accent)]
        for index, column_width in self._shown:
            cell = cells[index]
            text = fit(
                printable(cell.text, newlines=False), column_width,
                right=self._columns[index].right, ascii_only=ascii_wanted(),
            )  # fmt: skip
            style = base
            if tones and cell.tone:
                style += self.get_component_rich_style(f"table--{cell.tone}", partial=True)
            segments += [Segment(text, style), Segment("  ", base)]
        return Strip(segments).adjust_cell_length(width, base)
