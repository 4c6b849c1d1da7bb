"""One of a few words: arrows or a first letter change it in place, enter lists them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget

from tui.text import ascii_wanted

if TYPE_CHECKING:
    from textual import events
    from textual.app import RenderResult

AUTO = "auto"
"""How the empty choice (None: let the program decide) is shown."""


class Choice(Widget, can_focus=True):
    """See the module. Posts :class:`Changed`, and :class:`Asked` when the whole list is wanted."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "turn(-1)", "Previous", show=False),
        Binding("right,space", "turn(1)", "Next", show=False),
        Binding("enter", "ask", "List", show=False),
    ]
    DEFAULT_CSS = """
    Choice { height: 1; width: 1fr; padding: 0 1; background: $surface; }
    Choice:focus { background: $block-cursor-background; color: $block-cursor-foreground; }
    """

    value: reactive[str] = reactive("")

    @dataclass
    class Changed(Message):
        """Another word is chosen."""

        choice: Choice
        value: str

    @dataclass
    class Asked(Message):
        """Enter or a click: the choices are to be listed."""

        choice: Choice

    def __init__(self, choices: Sequence[str], value: str) -> None:
        super().__init__()
        self.choices = tuple(choices)
        self.set_reactive(Choice.value, value)

    def render(self) -> RenderResult:
        before, after = ("<", ">") if ascii_wanted() else ("‹", "›")
        return Content.assemble((f"{before} ", "dim"), self.value or AUTO, (f" {after}", "dim"))

    def put(self, value: str) -> None:
        """Choose ``value`` on behalf of the person."""
        if value != self.value:
            self.value = value
            self.post_message(self.Changed(self, value))

    def action_turn(self, steps: int) -> None:
        place = self.choices.index(self.value) if self.value in self.choices else 0
        self.put(self.choices[(place + steps) % len(self.choices)])

    def action_ask(self) -> None:
        self.post_message(self.Asked(self))

    def on_click(self) -> None:
        self.action_ask()

    def check_consume_key(self, key: str, character: str | None) -> bool:
        """Letters choose here, as they type in the fields beside: they never open another screen."""
        return character is not None and character.isalnum()

    def on_key(self, event: events.Key) -> None:
        """Go to the next choice that begins with the typed letter."""
        letter = event.character
        if letter is None or not letter.isalnum():
            return
        event.stop()
        place = self.choices.index(self.value) if self.value in self.choices else 0
        turned = self.choices[place + 1 :] + self.choices[: place + 1]
        for choice in turned:
            if (choice or AUTO).startswith(letter.lower()):
                self.put(choice)
                return
