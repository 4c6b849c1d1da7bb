"""Setting up a training: every decision in a form, what it costs beside it, and the start."""

# ruff: noqa: PLC0415 (what only an action needs is imported by the action)
from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.widgets import Button

from engine.contract.check import name_problem
from engine.contract.errors import ProfileError, SpecError
from engine.contract.rundir import RunDirectory
from engine.contract.spec import RunSpec
from tui.actions import bindings
from tui.draft import Draft
from tui.judge import Verdict, judge
from tui.screens.dialogs import AskText, Choose, Confirm
from tui.screens.draft_screen import DraftScreen
from tui.screens.new_form import Form
from tui.text import printable

if TYPE_CHECKING:
    from engine.contract.machine import Machine
    from engine.runs.profiles import Profile

QUICKSTART = "quickstart"


class NewScreen(DraftScreen):
    """See the module. What is typed stays until another profile is loaded over it."""

    PLACE = "new"
    BINDINGS: ClassVar[list[BindingType]] = bindings("new")

    def __init__(self) -> None:
        super().__init__(Draft(RunSpec(), QUICKSTART))
        self._loaded = False

    def compose_body(self) -> ComposeResult:
        if not self._loaded:
            self.start_from(QUICKSTART, ready=False)
        yield from super().compose_body()

    def judge_draft(self, draft: Draft, machine: Machine | None) -> Verdict:
        return judge(draft, machine)

    def origin_words(self) -> str:
        return f"From {self._draft.origin}" + (", changed" if self._draft.changed else "")

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
                self.judge_soon()
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
            self.show_draft()
        self.call_after_refresh(self._focus, ready)

    def _focus(self, ready: bool) -> None:
        if ready:
            self.query_one("#start", Button).focus()
        else:
            self.query_one(Form).focus_field("name")

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

    # ------------------------------------------------------------------ saving

    def action_save(self) -> None:
        spec, problems = self._draft.read()
        if problems:
            self.show_first(problems[0].field, "There is something to mend before this can be saved")
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
                self.show_first(error.problems[0].field, str(error.problems[0]))
            else:
                self.deck.fail(error)

        self.deck.in_background(save, done, failed=failed)

    def _saved(self, name: str, saved: RunSpec, typed: dict[str, str]) -> None:
        """The form goes on from the profile, its name included; what was typed since ``typed`` was saved stays."""
        since = {field: text for field, text in self._draft.texts.items() if text != typed[field]}
        self._draft = Draft(saved, name)
        self._draft.texts |= since
        self.query_one(Form).fill(self._draft.texts)
        self.show_draft()
        self.notify(f"Saved as {printable(name, newlines=False)}", markup=False)

    # ------------------------------------------------------------------ starting

    def start(self, verdict: Verdict) -> None:
        machine = self.deck.machine
        if machine is None or verdict.estimate is None:
            return
        spec, found = verdict.spec, verdict.estimate
        self.set_starting(True)

        def launch() -> RunDirectory:
            from engine.planner.estimate import plan_object
            from engine.runs.create import create_run
            from engine.runs.launch import start

            run = create_run(spec, machine, found.layout, plan_object(found))
            start(run)
            return run

        self.deck.in_background(launch, self._started, failed=self.not_started)

    def _started(self, run: RunDirectory) -> None:
        self.set_starting(False)
        self.deck.open_run(run)


def is_own(name: str) -> bool:
    """Whether a profile of that name is a person's own, and so may be replaced; reads files."""
    from engine.runs.profiles import list_profiles

    return any(profile.name.casefold() == name.casefold() and profile.origin == "own" for profile in list_profiles())
