"""What the screens have in common on which a spec is typed: a form, what it means beside it, and problems in place."""

# ruff: noqa: PLC0415 (what only an action needs is imported by the action)
from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, cast

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Button, Static

from tui.draft import FIELDS, Draft
from tui.judge import Verdict
from tui.screens.dialogs import Choose, Confirm
from tui.screens.frame import DeckScreen
from tui.screens.new_form import Form
from tui.screens.new_panel import Panel
from tui.strategies import STRATEGIES, help_words
from tui.text import human_count, printable
from tui.widgets.choice import AUTO, Choice
from tui.widgets.field import FieldRow

if TYPE_CHECKING:
    from engine.contract.machine import Machine
    from tui.app import TraindeckApp

PAUSE_SECONDS = 0.08
"""After the last key, before the draft is judged again."""


class DraftScreen(DeckScreen):
    """See the module. Subclasses say how a draft is judged and what its start does."""

    START = "Start training"
    """What the start is called."""
    STARTING = "Starting ..."

    def __init__(self, draft: Draft) -> None:
        super().__init__()
        self._draft = draft
        self._loading: str | None = None
        """What is being read; what is in the form gives way to it."""
        self._judging = False
        self._stale = False
        self._start_after = False
        self._starting = False
        self.verdict: Verdict | None = None
        """Of the newest draft that was judged; None before."""

    @abstractmethod
    def judge_draft(self, draft: Draft, machine: Machine | None) -> Verdict:
        """What is to be said of ``draft``; called in a thread."""

    @abstractmethod
    def start(self, verdict: Verdict) -> None:
        """Start what ``verdict`` is of: it has no problems, and doubts were agreed to."""

    @abstractmethod
    def origin_words(self) -> str:
        """The line above the form."""

    def make_form(self) -> Form:
        """The form; once, when the screen is composed."""
        return Form(self._draft.texts)

    @property
    def deck(self) -> TraindeckApp:
        return cast("TraindeckApp", self.app)

    def compose_body(self) -> ComposeResult:
        with Horizontal():
            with Vertical(id="left"):
                yield Static("", id="origin", markup=False)
                yield self.make_form()
            yield Panel(f"{self.START}  ^t")

    def on_mount(self) -> None:
        super().on_mount()
        self.watch(self.app, "machine", self._machine_known, init=False)
        self.show_draft()

    def _machine_known(self, _machine: Machine | None) -> None:
        self.judge_soon()

    @property
    def is_judged(self) -> bool:
        """Whether :attr:`verdict` is of what is typed now."""
        return self.verdict is not None and not self._stale and not self._judging and self._loading is None

    @property
    def draft(self) -> Draft:
        return self._draft

    def show_draft(self) -> None:
        """Say where the draft comes from, and judge it."""
        self._show_origin()
        self.judge_soon()

    def _show_origin(self) -> None:
        self.query_one("#origin", Static).update(printable(self.origin_words(), newlines=False))

    # ------------------------------------------------------------------ typing

    @on(FieldRow.Edited)
    def _edited(self, event: FieldRow.Edited) -> None:
        # What the fields say now: a message from before the form was filled in may come late. Another strategy
        # changes more than its own field.
        self._draft.texts |= self.query_one(Form).texts
        self._show_help(event.row)
        self._show_origin()
        self.judge_soon()

    @on(FieldRow.Entered)
    def _entered(self, event: FieldRow.Entered) -> None:
        self._show_help(event.row)

    def _show_help(self, row: FieldRow) -> None:
        if row.has_focus_within:
            self.query_one(Panel).help_text = help_words(row.field, row.text)

    @on(Button.Pressed, "#start")
    def _pressed(self) -> None:
        self.action_start()

    def judge_soon(self) -> None:
        """Judge the draft once nothing was typed for a moment."""
        if not self._stale and self._loading is None:
            self._stale = True
            self.set_timer(PAUSE_SECONDS, self._judge)

    def _judge(self) -> None:
        if self._judging:
            return  # the running one judges again when it is done
        self._judging, self._stale = True, False
        draft = Draft(self._draft.base, self._draft.origin, dict(self._draft.texts))
        machine = self.deck.machine
        self.deck.in_background(lambda: self.judge_draft(draft, machine), self._judged, failed=self._not_judged)

    def _judged(self, verdict: Verdict) -> None:
        self._judging = False
        if self._stale:
            self._judge()
            return
        self.verdict = verdict
        self.query_one(Form).show_problems([*verdict.problems, *verdict.doubts])
        self.query_one(Panel).verdict = verdict
        if self._start_after and self.deck.machine is not None:
            self._start_after = False
            self.action_start()

    def _not_judged(self, error: BaseException) -> None:
        """A defect in judging: said quietly, for the person is typing; start says it again."""
        self._judging = self._start_after = False
        self.query_one(Panel).help_text = f"This could not be checked: {type(error).__name__}: {error}"
        if self._stale:
            self._judge()

    # ------------------------------------------------------------------ choosing

    @on(Choice.Asked)
    def _asked(self, event: Choice.Asked) -> None:
        choice = event.choice
        row = choice.parent
        assert isinstance(row, FieldRow)
        options = [(word, word or AUTO, "") for word in choice.choices]
        if row.field.name == "model.preset":
            options = [(word, word, detail) for word, detail in preset_details(self._draft).items()]
        elif row.field.name == "layout.strategy":
            options = [(word, word, line) for word, line in STRATEGIES.items()]
        self.app.push_screen(
            Choose(row.field.label, options, choice.value), lambda word: choice.put(word) if word is not None else None
        )

    async def action_more(self) -> None:
        form = self.query_one(Form)
        await form.show_all(not form.complete)

    def action_copy_command(self) -> None:
        if self.verdict is not None:
            self.app.copy_to_clipboard(self.verdict.command)
            self.notify("The command is on the clipboard", timeout=3)

    # ------------------------------------------------------------------ starting

    def action_start(self) -> None:
        """Start what is typed, once it is judged; problems are shown instead."""
        verdict = self.verdict
        if self._starting:
            return
        if verdict is None or not self.is_judged or self.deck.machine is None:
            self._start_after = True
            return
        if verdict.problems:
            self.show_first(verdict.problems[0].field)
        elif verdict.doubts:
            text = "\n".join(f"{doubt.message}. {doubt.hint}" for doubt in verdict.doubts)
            question = Confirm("Start although it may not fit?", text, "Start anyway")
            self.app.push_screen(question, lambda yes: self.start(verdict) if yes else None)
        else:
            self.start(verdict)

    def show_first(self, name: str, words: str = "There is something to mend before this can start") -> None:
        """Put the cursor into the field of a problem, unfolding the form for it."""
        self.notify(printable(words, newlines=False), severity="warning", timeout=4, markup=False)
        if name not in FIELDS:
            return
        if not self.query_one(Form).shows(name):
            self.run_worker(self._unfold(name))
        else:
            self.query_one(Form).focus_field(name)

    async def _unfold(self, name: str) -> None:
        await self.query_one(Form).show_all(True)
        self.query_one(Form).focus_field(name)

    def set_starting(self, starting: bool) -> None:
        """Whether the start is under way: it cannot be asked for twice."""
        self._starting = starting
        button = self.query_one("#start", Button)
        button.label = self.STARTING if starting else f"{self.START}  ^t"
        button.disabled = starting

    def not_started(self, error: BaseException) -> None:
        """Say why, and keep what is typed."""
        self.set_starting(False)
        self.deck.fail(error)


def preset_details(draft: Draft) -> dict[str, str]:
    """Each preset with its exact size for the vocabulary and length that are typed."""
    from engine.contract.presets import PRESETS, resolve_shape
    from engine.contract.spec import ModelSpec
    from engine.planner.shapes import parameter_count
    from tui.summary import shape_summary

    spec, _ = draft.read()
    details = {}
    for name in PRESETS:
        shape = resolve_shape(
            ModelSpec(preset=name),
            vocabulary=max(1, spec.tokenizer.vocabulary),
            sequence_length=max(1, spec.data.sequence_length),
        )
        details[name] = f"{human_count(parameter_count(shape)):>8}  {shape_summary(shape)}"
    return details
