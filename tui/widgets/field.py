"""A labelled field with its problem under it.

The row draws label and problem itself and has one child, the editor: a form of seventy fields stays light.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from textual.suggester import Suggester
from textual.widget import Widget
from textual.widgets import Input
from textual.widgets.input import Selection

from engine.contract.source import STDLIB
from tui.fields import Field
from tui.text import ascii_wanted, fit, printable, wrap_words
from tui.widgets.choice import Choice
from tui.widgets.line import Line

if TYPE_CHECKING:
    from textual.app import RenderResult

LABEL_WIDTH = 21


class PathSuggester(Suggester):
    """Completes what is typed as a path from the folder it names."""

    def __init__(self, first: tuple[str, ...] = ()) -> None:
        super().__init__(use_cache=False, case_sensitive=True)
        self._first = first

    async def get_suggestion(self, value: str) -> str | None:
        for word in self._first:
            if word.startswith(value):
                return word
        found = await asyncio.to_thread(path_matches, value, 1)
        return found[0] if found else None


def path_matches(value: str, most: int) -> list[str]:
    """The first ``most`` paths that begin with ``value``, folders with a slash; hidden ones only if asked for."""
    if "/" not in value and not value.startswith((".", "~")):
        folder, start = ".", value
        prefix = ""
    else:
        prefix, _, start = value.rpartition("/")
        prefix += "/"
        folder = os.path.expanduser(prefix)
    try:
        with os.scandir(folder) as entries:
            names = sorted(
                entry.name + ("/" if entry.is_dir() else "")
                for entry in entries
                if entry.name.startswith(start) and (start.startswith(".") or not entry.name.startswith("."))
            )
    except (OSError, ValueError):  # not a folder, or not ours to read: nothing to suggest
        return []
    return [prefix + name for name in names[:most]]


class FieldRow(Widget):
    """Label, editor and problem of one field. Posts :class:`Edited` and :class:`Entered`."""

    DEFAULT_CSS = """
    FieldRow { height: 1; width: 1fr; }
    FieldRow > .field--label { color: $text-muted; }
    FieldRow > .field--label-here { color: $primary; text-style: bold; }
    FieldRow > .field--label-bad { color: $error; }
    FieldRow > .field--problem { color: $error; }
    FieldRow > Input.-textual-compact { margin: 0 0 0 21; width: 1fr; padding: 0 1; background: $surface; }
    FieldRow > Input.-textual-compact:focus { background: $block-cursor-background; }
    FieldRow Choice { margin: 0 0 0 21; }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "field--label", "field--label-here", "field--label-bad", "field--problem",
    }  # fmt: skip

    problem: reactive[str] = reactive("")
    here: reactive[bool] = reactive(False)

    @dataclass
    class Edited(Message):
        """The text of the field is another."""

        row: FieldRow
        text: str

    @dataclass
    class Entered(Message):
        """The field has the focus."""

        row: FieldRow

    def __init__(self, field: Field, text: str) -> None:
        super().__init__(id=row_id(field.name))
        self.field = field
        self._text = text

    def compose(self) -> ComposeResult:
        if self.field.choices:
            yield Choice(self.field.choices, self._text)
        else:
            suggester = None
            if self.field.name == "data.source":
                suggester = PathSuggester((STDLIB,))
            elif self.field.name == "tokenizer.file":
                suggester = PathSuggester()
            yield Line(
                self._text,
                placeholder=_placeholder(self.field),
                suggester=suggester,
                compact=True,
            )

    @property
    def text(self) -> str:
        return self._text

    def put(self, text: str) -> None:
        """Fill the field in without telling anyone (its owner knows); what says so already keeps its cursor."""
        if not self.children:
            self._text = text  # its editor is still to come, and begins with it
            return
        editor = self.editor
        if text == self._text == editor.value:
            return
        self._text = text
        with self.prevent(Input.Changed, Choice.Changed):
            editor.value = text
        if isinstance(editor, Input):
            # Selected as a field is that was gone to: what is typed replaces it.
            editor.selection = Selection(0 if editor.has_focus else len(text), len(text))

    @property
    def editor(self) -> Input | Choice:
        child = self.children[0]
        assert isinstance(child, Input | Choice)
        return child

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        self._tell(self.editor.value)  # as it is now: this may come late, after another text was put in

    @on(Choice.Changed)
    def _chosen(self, event: Choice.Changed) -> None:
        event.stop()
        self._tell(self.editor.value)

    def _tell(self, text: str) -> None:
        if text != self._text:
            self._text = text
            self.post_message(self.Edited(self, text))

    def on_descendant_focus(self) -> None:
        self.here = True
        self.post_message(self.Entered(self))

    def on_descendant_blur(self) -> None:
        self.here = False

    def watch_problem(self) -> None:
        self._fit_height()

    def on_resize(self) -> None:
        self._fit_height()

    def _fit_height(self) -> None:
        self.styles.height = 1 + len(self._problem_lines())

    def _problem_lines(self) -> list[str]:
        if not self.problem:
            return []
        room = max(20, self.size.width - 4)
        return wrap_words(printable(self.problem, newlines=False), room)

    def render(self) -> RenderResult:
        style = "field--label-bad" if self.problem else "field--label-here" if self.here else "field--label"
        mark = ("!" if self.problem else ">" if self.here else " ") if ascii_wanted() else (
            "✘" if self.problem else "▌" if self.here else " "
        )  # fmt: skip
        label = fit(f"{mark} {self.field.label}", LABEL_WIDTH - 1, ascii_only=ascii_wanted())
        bad = self.get_visual_style("field--problem")
        parts = [Content.styled(label, self.get_visual_style(style))]
        parts += [Content.styled(f"\n    {line}", bad) for line in self._problem_lines()]
        return Content("").join(parts)


def row_id(name: str) -> str:
    """The widget id of a field's row."""
    return "field-" + name.replace(".", "-").replace("_", "-")


_PLACEHOLDERS: dict[str, str] = {
    "budget.max_steps": "no limit", "budget.max_tokens": "no limit", "budget.max_epochs": "no limit",
    "budget.max_seconds": "no limit", "optim.clip_norm": "off", "data.subset": "none", "data.max_documents": "all",
    "tokenizer.file": "none", "layout.hosts": "this one alone", "layout.stages": "even",
    "layout.micro_batches": "all alike", "model.layer_groups": "none shared",
    "evaluation.every_steps": "only at the end", "evaluation.max_batches": "all",
    "evaluation.top_k": "all", "checkpoint.every_steps": "only at the end",
}  # fmt: skip
"""What an empty field means; else the program decides."""


def _placeholder(field: Field) -> str:
    return _PLACEHOLDERS.get(field.name, "auto") if field.optional else ""
