"""All keys and what they do, from the registry: the screen one comes from first."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Static

from tui.actions import ANYWHERE, TITLES, actions_of, key_text, keys_text
from tui.screens.frame import DeckScreen
from tui.text import wrap_words

KEYS = 18
"""Cells for the keys before each line."""
INTRODUCTION = (
    "Traindeck plans, starts and watches the training of language models. A training runs by itself: closing this "
    "window, or losing the connection, does not touch it. Every action is also a command: see traindeck --help."
)


class Wrapped(Static):
    """A text that is made anew for the width that is left for it, with a scroll bar or without."""

    def __init__(self, made: Callable[[int], Content]) -> None:
        super().__init__("", markup=False)
        self._made = made
        self._width = 0

    def on_resize(self) -> None:
        width = max(40, self.content_size.width)
        if width != self._width:
            self._width = width
            self.update(self._made(width))


class HelpScreen(DeckScreen):
    """Help for the screen ``behind``, then for all others."""

    PLACE = "help"
    AUTO_FOCUS = "VerticalScroll"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,f1,q", "app.back", "Close"),
        Binding("j", "scroll(1)", "Down", show=False),
        Binding("k", "scroll(-1)", "Up", show=False),
    ]

    def __init__(self, behind: Screen[object]) -> None:
        super().__init__()
        self._behind = behind

    def compose_body(self) -> ComposeResult:
        with VerticalScroll():
            yield Wrapped(self._text)

    def action_scroll(self, lines: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=lines, animate=False)

    def _text(self, width: int) -> Content:
        here = str(getattr(self._behind, "PLACE", ""))
        order = [here, *(place for place in TITLES if place != here)]
        parts: list[Content | tuple[str, str] | str] = ["\n".join(wrap_words(INTRODUCTION, width)), "\n"]
        for place in order:
            lines = self._lines(place)
            if not lines:
                continue
            parts += ["\n", (TITLES.get(place, place.capitalize()), "bold $primary"), "\n"]
            for keys, text in lines:
                indented = f"\n{' ' * KEYS}".join(wrap_words(text, width - KEYS))
                parts += [(f"  {keys}".ljust(KEYS), "$accent"), indented, "\n"]
        return Content.assemble(*parts)

    def _lines(self, place: str) -> list[tuple[str, str]]:
        if lines := [(keys_text(action) or "palette", action.help) for action in actions_of(place)]:
            return lines
        if place == ANYWHERE or place != getattr(self._behind, "PLACE", ""):
            return []
        return [  # a screen that keeps its bindings itself
            (key_text(active.binding.key), active.binding.tooltip or active.binding.description)
            for active in self._behind.active_bindings.values()
            if active.node is self._behind and active.binding.description
        ]
