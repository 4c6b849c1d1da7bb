"""The line above and the line below every screen: where one is, and which keys work here.

Both draw one line by themselves: Textual's own header and footer mount a widget for each part, which is a
good share of the time to the first paint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.content import Content
from textual.reactive import reactive
from textual.style import Style
from textual.widget import Widget

from tui.actions import ANYWHERE, actions_of, key_text
from tui.text import ascii_wanted, cell_width, fit

if TYPE_CHECKING:
    from textual.app import RenderResult
    from textual.screen import Screen

TABS: dict[str, str] = {"runs": "Runs", "new": "New", "profiles": "Profiles", "devices": "Devices"}
"""Screens that a key opens from everywhere, in the order of the line, with their titles."""


class TopBar(Widget):
    """Product, screens with their keys, and what the machine has."""

    DEFAULT_CSS = """
    TopBar { dock: top; height: 1; background: $panel; color: $text-muted; }
    TopBar > .topbar--name { color: $primary; text-style: bold; }
    TopBar > .topbar--here { background: $primary 25%; color: $text; text-style: bold; }
    TopBar > .topbar--key { color: $accent; }
    """
    auto_links = False  # clicks work; what can be clicked is not underlined
    COMPONENT_CLASSES: ClassVar[set[str]] = {"topbar--name", "topbar--here", "topbar--key"}

    machine: reactive[str] = reactive("")
    """Summary of the devices; empty until they are known."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self._place = place

    def render(self) -> RenderResult:
        keys = {action.name: action.keys for action in actions_of(ANYWHERE)}
        bold, key_style = self.get_visual_style("topbar--name"), self.get_visual_style("topbar--key")
        here = self.get_visual_style("topbar--here")
        parts: list[Content | tuple[str, Style | str]] = [(" Traindeck ", bold), (" ", "")]
        for place, title in TABS.items():
            name = f"app.show('{place}')"
            click = Style.from_meta({"@click": name})
            if place == self._place:
                mark = "[" if self.app.no_color else " "
                end = "]" if self.app.no_color else " "
                parts += [(f"{mark}{keys[name]} {title}{end}", here + click), (" ", "")]
            else:
                parts += [(" ", ""), (keys[name], key_style + click), (f" {title} ", click), (" ", "")]
        line = Content.assemble(*parts)
        room = self.size.width - line.cell_length - 2
        summary = self.machine
        if room < 4 or not summary:
            return line
        summary = fit(summary, min(room, cell_width(summary)), ascii_only=ascii_wanted())
        return Content.assemble(line, " " * (room + 1 - cell_width(summary)), summary)


class KeyBar(Widget):
    """The keys that work now, most important first; what does not fit is left to help."""

    DEFAULT_CSS = """
    KeyBar { dock: bottom; height: 1; background: $panel; color: $text-muted; }
    KeyBar > .keybar--key { color: $accent; text-style: bold; }
    """
    auto_links = False
    COMPONENT_CLASSES: ClassVar[set[str]] = {"keybar--key"}

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, self._bindings_updated)

    def _bindings_updated(self, _screen: Screen[object]) -> None:
        self.refresh()

    def render(self) -> RenderResult:
        local, everywhere = self._shown()
        tail = self._content(everywhere)
        room = self.size.width - tail.cell_length - 1
        kept: list[tuple[str, str, str]] = []
        for item in local:
            if self._content([*kept, item]).cell_length > room:
                break
            kept.append(item)
        line = self._content(kept)
        return Content.assemble(line, " " * max(0, self.size.width - line.cell_length - tail.cell_length), tail)

    def _shown(self) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
        """``(key, title, action)`` of this screen, and of every screen."""
        common = {action.name for action in actions_of(ANYWHERE)}
        local: list[tuple[str, str, str]] = []
        everywhere: list[tuple[str, str, str]] = []
        seen: set[str] = set()
        for active in self.screen.active_bindings.values():
            binding = active.binding
            if not binding.show or not active.enabled or binding.action in seen:
                continue
            seen.add(binding.action)
            title: str | None = binding.description
            if (title_of := getattr(self.screen, "title_of", None)) is not None:
                title = title_of(binding.action, title)
            if title is None:
                continue
            row = (key_text(binding.key), title, binding.action)
            (everywhere if binding.action in common else local).append(row)
        return local, everywhere

    def _content(self, items: list[tuple[str, str, str]]) -> Content:
        key_style = self.get_visual_style("keybar--key")
        parts: list[tuple[str, Style | str]] = []
        for key, title, action in items:
            click = Style.from_meta({"@click": action if "." in action else f"screen.{action}"})
            parts += [(f" {key} ", key_style + click), (f"{title} ", click)]
        return Content.assemble(*parts)
