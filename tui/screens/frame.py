"""What all full screens have: the line above, the line below, and their place in the registry of actions."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.screen import Screen

from tui.feeds import FeedFailed
from tui.text import printable
from tui.widgets.frame import KeyBar, TopBar

STOP_FIRST = "stop it first (S): a run changes its layout between its attempts"
"""Why a run at work is not asked for another layout."""


class DeckScreen(Screen[None]):
    """A screen between the two lines; subclasses say what is in it by :meth:`compose_body`."""

    PLACE: ClassVar[str] = ""
    """The screen's place in :mod:`tui.actions`, by which help finds its keys."""
    AUTO_FOCUS = ""

    def compose(self) -> ComposeResult:
        yield TopBar(self.PLACE)
        yield from self.compose_body()
        yield KeyBar()

    def compose_body(self) -> ComposeResult:
        """The widgets between the two lines."""
        yield from ()

    def title_of(self, action: str, title: str) -> str | None:
        """What ``action`` is called now in key line and palette; None where its key is only answered with a no."""
        del action
        return title

    def refusal_of(self, action: str) -> str | None:
        """What to do first, where the palette lists ``action`` although it cannot be done now; None elsewhere."""
        del action
        return None

    def on_mount(self) -> None:
        self.watch(self.app, "machine_summary", self._tell_machine)

    def _tell_machine(self, summary: str) -> None:
        self.query_one(TopBar).machine = summary

    @on(FeedFailed)
    def _tell_failure(self, message: FeedFailed) -> None:
        """What is on the screen may be old: that must not go unseen."""
        text = f"{type(message.error).__name__}: {message.error}\nWhat is shown may be old; it is read again."
        self.notify(printable(text), title="A defect while reading", severity="error", timeout=15, markup=False)
