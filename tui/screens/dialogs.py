"""Questions and messages in front of a screen: confirm, ask for a text, choose from a list, show an error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.suggester import Suggester
from textual.widgets import Button, Input, Static

from engine.contract.errors import TraindeckError
from tui.text import printable
from tui.widgets.line import Line
from tui.widgets.table import Cell, Column, Row, Table


class Confirm(ModalScreen[bool]):
    """A question whose safe answer has the focus; ``y`` says yes from anywhere."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes"),
        Binding("n,escape", "answer(False)", "No"),
        Binding("left,right,h,l", "other", "Other answer", show=False),
    ]

    def __init__(self, title: str, text: str, yes: str, no: str = "Cancel") -> None:
        super().__init__()
        self._title, self._text, self._yes, self._no = title, text, yes, no

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as dialog:
            dialog.border_title = title_text(self._title)
            yield Static(printable(self._text), markup=False)
            with Horizontal(classes="answers"):
                yield Button(f"{self._no} (n)", id="no", compact=True)
                yield Button(f"{self._yes} (y)", id="yes", compact=True)

    def action_answer(self, answer: bool) -> None:
        self.dismiss(answer)

    def action_other(self) -> None:
        self.focus_next()

    @on(Button.Pressed)
    def _pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "yes")


class AskText(ModalScreen[str | None]):
    """A line of text, refused with a reason until ``problem_of`` has none."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Cancel")]

    def __init__(
        self, title: str, text: str, value: str = "", *, problem_of: Callable[[str], str | None],
        suggester: Suggester | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self._title, self._text, self._value = title, text, value
        self._problem_of, self._suggester = problem_of, suggester

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as dialog:
            dialog.border_title = title_text(self._title)
            yield Static(printable(self._text), markup=False)
            yield Line(self._value, suggester=self._suggester, compact=True)
            yield Static("", id="problem", markup=False)
            yield Static("enter  accept    esc  cancel", classes="hint", markup=False)

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        self._judge(event.value)

    @on(Input.Submitted)
    def _accept(self, event: Input.Submitted) -> None:
        if not self._judge(event.value):
            self.dismiss(event.value)

    def _judge(self, value: str) -> str | None:
        problem = self._problem_of(value)
        self.query_one("#problem", Static).update(printable(problem or "", newlines=False))
        return problem


class Choose(ModalScreen[str | None]):
    """One of a list, found by typing a part of it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Cancel"),
        Binding("up", "move(-1)", "Up", show=False, priority=True),
        Binding("down", "move(1)", "Down", show=False, priority=True),
        Binding("pageup", "page(-1)", "Page up", show=False, priority=True),
        Binding("pagedown", "page(1)", "Page down", show=False, priority=True),
    ]

    def __init__(self, title: str, options: Sequence[tuple[str, str, str]], value: str = "") -> None:
        """``options`` are ``(value, word, detail)``."""
        super().__init__()
        self._title, self._options, self._value = title, tuple(options), value

    def compose(self) -> ComposeResult:
        words = max((len(word) for _, word, _ in self._options), default=4)
        details = max((len(detail) for _, _, detail in self._options), default=0)
        with Vertical(classes="dialog") as dialog:
            dialog.border_title = title_text(self._title)
            yield Line(placeholder="type to find", compact=True)
            yield Table(
                [Column(title="", width=min(28, words)), Column(title="", width=min(40, details), flexible=True)]
            )
            yield Static("enter  choose    esc  cancel", classes="hint", markup=False)

    def on_mount(self) -> None:
        table = self.query_one(Table)
        table.can_focus = False
        table.styles.height = min(13, len(self._options) + 1)
        self._filter("")
        table.select(self._value)

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        self._filter(event.value)

    def _filter(self, text: str) -> None:
        text = text.strip().lower()
        self.query_one(Table).show(
            [
                Row(value, (Cell(word), Cell(detail, "dim")))
                for value, word, detail in self._options
                if text in word.lower() or text in detail.lower()
            ]
        )

    def action_move(self, lines: int) -> None:
        self.query_one(Table).action_move(lines)

    def action_page(self, pages: int) -> None:
        self.query_one(Table).action_page(pages)

    @on(Input.Submitted)
    @on(Table.Opened)
    def _accept(self) -> None:
        if (key := self.query_one(Table).selected) is not None:
            self.dismiss(key)


class ErrorDialog(ModalScreen[None]):
    """What went wrong and what to do, with a text that can be copied."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q", "dismiss", "Close"),
        Binding("c,y", "copy", "Copy"),
        Binding("down,j", "scroll(1)", "Down", show=False),
        Binding("up,k", "scroll(-1)", "Up", show=False),
    ]

    def __init__(self, title: str, message: str, hint: str = "") -> None:
        super().__init__()
        self._title, self._message, self._hint = printable(title, newlines=False), printable(message), printable(hint)

    @property
    def text(self) -> str:
        """All of it, as it is copied."""
        return "\n".join(part for part in (self._title, self._message, self._hint) if part)

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog error") as dialog:
            dialog.border_title = title_text(self._title)
            with VerticalScroll(can_focus=False):
                yield Static(self._message, markup=False)
            if self._hint:
                yield Static(self._hint, classes="advice", markup=False)
            yield Static("enter  close    c  copy the text", classes="hint", markup=False)

    def action_copy(self) -> None:
        self.app.copy_to_clipboard(self.text)
        self.notify("Copied", timeout=2)

    def action_scroll(self, lines: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=lines, animate=False)


def error_dialog(error: BaseException) -> ErrorDialog:
    """The dialog for an error: its own words, or for a defect the kind and the place."""
    if isinstance(error, TraindeckError):
        return ErrorDialog(error.title, error.message, error.hint)
    return ErrorDialog(
        "Something went wrong inside Traindeck",
        f"{type(error).__name__}: {error}",
        "This is a defect. Trainings that run are not affected; `traindeck doctor` collects what a report needs.",
    )


def title_text(text: str) -> str:
    """``text`` for the title in a border, where Textual would read markup."""
    return printable(text, newlines=False).replace("[", "\\[")
