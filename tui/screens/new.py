"""Setting up a training: every decision in a form, what it costs beside it, and the start."""

# ruff: noqa: PLC0415 (what only an action needs is imported by the action)
from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import Button, Static

from engine.contract.check import name_problem
from engine.contract.errors import ProfileError, SpecError
from engine.contract.rundir import RunDirectory
from engine.contract.spec import RunSpec
from tui.actions import bindings
from tui.draft import FIELDS, Draft
from tui.judge import Verdict, judge
from tui.screens.dialogs import AskText, Choose, Confirm
from tui.screens.frame import DeckScreen
from tui.screens.new_form import Form
from tui.screens.new_panel import Panel
from tui.strategies import STRATEGIES, help_words
from tui.text import human_count, printable
from tui.widgets.choice import AUTO, Choice
from tui.widgets.field import FieldRow

if TYPE_CHECKING:
    from engine.contract.machine import Machine
    from engine.runs.profiles import Profile
    from tui.app import TraindeckApp

QUICKSTART = "quickstart"
PAUSE_SECONDS = 0.08
"""After the last key, before the draft is judged again."""


class NewScreen(DeckScreen):
    """See the module. What is typed stays until another profile is loaded over it."""

    PLACE = "new"
    BINDINGS: ClassVar[list[BindingType]] = bindings("new")

    def __init__(self) -> None:
        super().__init__()
        self._draft = Draft(RunSpec(), QUICKSTART)
        self._loaded = False
        self._loading: str | None = None
        """The profile that is being read; what is in the form gives way to it."""
        self._judging = False
        self._stale = False
        self._start_after = False
        self._starting = False
        self.verdict: Verdict | None = None
        """Of the newest draft that was judged; None before."""

    @property
    def deck(self) -> TraindeckApp:
        return cast("TraindeckApp", self.app)

    def compose_body(self) -> ComposeResult:
        if not self._loaded:
            self.start_from(QUICKSTART, ready=False)
        with Horizontal():
            with Vertical(id="left"):
                yield Static("", id="origin", markup=False)
                yield Form(self._draft.texts)
            yield Panel()

    def on_mount(self) -> None:
        super().on_mount()
        self.watch(self.app, "machine", self._machine_known, init=False)
        self._show_draft()

    def _machine_known(self, _machine: Machine | None) -> None:
        self._judge_soon()

    @property
    def is_judged(self) -> bool:
        """Whether :attr:`verdict` is of what is typed now."""
        return self.verdict is not None and not self._stale and not self._judging and self._loading is None

    @property
    def draft(self) -> Draft:
        return self._draft

    # ------------------------------------------------------------------ filling in

    def start_from(self, profile: str, *, ready: bool = True) -> None:
        """Fill the form in from a profile; ``ready`` puts the focus on the start."""
        from engine.runs.profiles import load_profile

        def loaded(spec: RunSpec) -> None:
            if self._loading == profile:  # else something else was wanted meanwhile
                self.fill(spec, profile, ready=ready)

        def failed(error: BaseException) -> None:
            if self._loading == profile:
                self._loading = None
                self._judge_soon()
            self.deck.fail(error)

        self._loaded, self._loading = True, profile
        self.deck.in_background(lambda: load_profile(profile), loaded, failed=failed)

    def fill(self, spec: RunSpec, origin: str, *, ready: bool = True) -> None:
        """Fill the form in with ``spec``; ``origin`` is what ``traindeck train`` takes for it."""
        self._loaded, self._loading = True, None
        if self._draft.changed:
            question = Confirm(
                "Replace what you typed?",
                f"The form has changes that are not saved. Fill it in from {origin}?",
                "Replace",
            )
            self.app.push_screen(question, lambda yes: self._fill(spec, origin, ready) if yes else None)
        else:
            self._fill(spec, origin, ready)

    def _fill(self, spec: RunSpec, origin: str, ready: bool) -> None:
        self._draft = Draft(spec, origin)
        self.verdict = None
        if self.query(Form):
            self.query_one(Form).fill(self._draft.texts)
            self._show_draft()
        self.call_after_refresh(self._focus, ready)

    def _focus(self, ready: bool) -> None:
        if ready:
            self.query_one("#start", Button).focus()
        else:
            self.query_one(Form).focus_field("name")

    def _show_draft(self) -> None:
        self._show_origin()
        self._judge_soon()

    def _show_origin(self) -> None:
        changed = ", changed" if self._draft.changed else ""
        text = f"From {self._draft.origin}{changed}"
        self.query_one("#origin", Static).update(printable(text, newlines=False))

    # ------------------------------------------------------------------ typing

    @on(FieldRow.Edited)
    def _edited(self, event: FieldRow.Edited) -> None:
        # What the fields say now: a message from before the form was filled in may come late. Another strategy
        # changes more than its own field.
        self._draft.texts |= self.query_one(Form).texts
        self._show_help(event.row)
        self._show_origin()
        self._judge_soon()

    @on(FieldRow.Entered)
    def _entered(self, event: FieldRow.Entered) -> None:
        self._show_help(event.row)

    def _show_help(self, row: FieldRow) -> None:
        if row.has_focus_within:
            self.query_one(Panel).help_text = help_words(row.field, row.text)

    @on(Button.Pressed, "#start")
    def _pressed(self) -> None:
        self.action_start()

    def _judge_soon(self) -> None:
        if not self._stale and self._loading is None:
            self._stale = True
            self.set_timer(PAUSE_SECONDS, self._judge)

    def _judge(self) -> None:
        if self._judging:
            return  # the running one judges again when it is done
        self._judging, self._stale = True, False
        draft = Draft(self._draft.base, self._draft.origin, dict(self._draft.texts))
        machine = self.deck.machine
        self.deck.in_background(lambda: judge(draft, machine), self._judged, failed=self._not_judged)

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

    def action_load(self) -> None:
        from engine.runs.profiles import list_profiles

        self.deck.in_background(list_profiles, self._offer)

    def _offer(self, profiles: list[Profile]) -> None:
        options = [
            (profile.name, profile.name, profile.problem or (profile.spec.description if profile.spec else ""))
            for profile in profiles
        ]
        self.app.push_screen(
            Choose("Start from a profile", options, self._draft.origin),
            lambda name: self.start_from(name, ready=False) if name is not None else None,
        )

    def action_copy_command(self) -> None:
        if self.verdict is not None:
            self.app.copy_to_clipboard(self.verdict.command)
            self.notify("The command is on the clipboard", timeout=3)

    # ------------------------------------------------------------------ saving

    def action_save(self) -> None:
        spec, problems = self._draft.read()
        if problems:
            self._show_first(problems[0].field, "There is something to mend before this can be saved")
            return
        self.app.push_screen(
            AskText("Save as a profile", "Name of the profile:", spec.name, problem_of=name_problem),
            lambda name: self._save(name, spec, overwrite=False) if name is not None else None,
        )

    def _save(self, name: str, spec: RunSpec, *, overwrite: bool) -> None:
        typed = dict(self._draft.texts)

        def save() -> RunSpec | None:
            """The spec as it was kept; None if a profile of that name is there and nobody agreed to replace it."""
            from engine.runs.profiles import load_profile, save_checked

            try:
                save_checked(name, spec, overwrite=overwrite, origin="the form")
            except ProfileError:
                if not overwrite and is_own(name):
                    return None
                raise
            return load_profile(name)

        def done(saved: RunSpec | None) -> None:
            if saved is not None:
                self._saved(name, saved, typed)
                return
            question = Confirm("Replace the profile?", f"A profile of yours is called {name}.", "Replace")
            self.app.push_screen(question, lambda yes: self._save(name, spec, overwrite=True) if yes else None)

        def failed(error: BaseException) -> None:
            if isinstance(error, SpecError):
                self._show_first(error.problems[0].field, str(error.problems[0]))
            else:
                self.deck.fail(error)

        self.deck.in_background(save, done, failed=failed)

    def _saved(self, name: str, saved: RunSpec, typed: dict[str, str]) -> None:
        """The form goes on from the profile, its name included; what was typed since ``typed`` was saved stays."""
        since = {field: text for field, text in self._draft.texts.items() if text != typed[field]}
        self._draft = Draft(saved, name)
        self._draft.texts |= since
        self.query_one(Form).fill(self._draft.texts)
        self._show_draft()
        self.notify(f"Saved as {printable(name, newlines=False)}", markup=False)

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
            self._show_first(verdict.problems[0].field)
        elif verdict.doubts:
            text = "\n".join(f"{doubt.message}. {doubt.hint}" for doubt in verdict.doubts)
            question = Confirm("Start although it may not fit?", text, "Start anyway")
            self.app.push_screen(question, lambda yes: self._start(verdict) if yes else None)
        else:
            self._start(verdict)

    def _show_first(self, name: str, words: str = "There is something to mend before this can start") -> None:
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

    def _start(self, verdict: Verdict) -> None:
        machine = self.deck.machine
        if machine is None or verdict.estimate is None:
            return
        spec, found = verdict.spec, verdict.estimate
        self._set_starting(True)

        def launch() -> RunDirectory:
            from engine.planner.estimate import plan_object
            from engine.runs.create import create_run
            from engine.runs.launch import start

            run = create_run(spec, machine, found.layout, plan_object(found))
            start(run)
            return run

        self.deck.in_background(launch, self._started, failed=self._not_started)

    def _set_starting(self, starting: bool) -> None:
        self._starting = starting
        button = self.query_one("#start", Button)
        button.label = "Starting ..." if starting else "Start training  ^t"
        button.disabled = starting

    def _started(self, run: RunDirectory) -> None:
        self._set_starting(False)
        self.deck.open_run(run)

    def _not_started(self, error: BaseException) -> None:
        self._set_starting(False)
        self.deck.fail(error)


def is_own(name: str) -> bool:
    """Whether a profile of that name is a person's own, and so may be replaced; reads files."""
    from engine.runs.profiles import list_profiles

    return any(profile.name.casefold() == name.casefold() and profile.origin == "own" for profile in list_profiles())


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
