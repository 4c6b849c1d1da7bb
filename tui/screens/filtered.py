"""A list that can be narrowed down by words: the line to type them in, and what it does."""

from __future__ import annotations

from abc import abstractmethod

from textual import on
from textual.app import ComposeResult
from textual.widgets import Input

from tui.screens.frame import DeckScreen
from tui.widgets.line import Line
from tui.widgets.table import Table


class FilteredScreen(DeckScreen):
    """A screen whose table shows the rows that hold all typed words. Subclasses show them and compose the rest."""

    FILTER = ""
    """What the empty line says can be typed."""

    def __init__(self) -> None:
        super().__init__()
        self._words: list[str] = []

    def compose_filter(self) -> ComposeResult:
        """The line; out of sight until it is asked for."""
        line = Line(placeholder=self.FILTER, id="filter", compact=True)
        line.display = False
        yield line

    @abstractmethod
    def show_matching(self) -> None:
        """Show the rows whose words match."""

    def matches(self, *texts: str) -> bool:
        """Whether every typed word is somewhere in ``texts``, in whatever case."""
        text = " ".join(texts).casefold()
        return all(word in text for word in self._words)

    @property
    def is_filtered(self) -> bool:
        """Whether there is a filter to take away."""
        return bool(self._words) or self.query_one("#filter").display

    def action_filter(self) -> None:
        field = self.query_one("#filter", Input)
        field.display = True
        field.focus()

    @on(Input.Changed, "#filter")
    def _filter_typed(self, event: Input.Changed) -> None:
        self._words = event.value.casefold().split()
        self.show_matching()

    @on(Input.Submitted, "#filter")
    def _filter_done(self) -> None:
        self.query_one(Table).focus()
        self.query_one("#filter").display = bool(self._words)

    def action_unfilter(self) -> None:
        """Show all rows again."""
        self.query_one("#filter", Input).value = ""
        self.query_one("#filter").display = False
        self.query_one(Table).focus()
