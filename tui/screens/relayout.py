"""A run goes on under another layout: the fields of its layout, what they mean, and the start."""

# ruff: noqa: PLC0415 (what only an action needs is imported by the action)
from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.binding import BindingType

from engine.contract.rundir import RunDirectory
from tui.actions import bindings
from tui.draft import Draft
from tui.judge import Verdict
from tui.relayout import FIELDS, Stand, judge_relayout, read_stand
from tui.screens.draft_screen import DraftScreen
from tui.screens.new_form import STRATEGY, Form
from tui.summary import layout_summary

if TYPE_CHECKING:
    from engine.contract.machine import Machine
    from engine.runs.relayout import Relayout
    from tui.app import TraindeckApp


class RelayoutScreen(DraftScreen):
    """See the module. In front of the screen from which it was asked for."""

    PLACE = "relayout"
    BINDINGS: ClassVar[list[BindingType]] = bindings("relayout")
    START = "Resume"
    STARTING = "Resuming ..."

    def __init__(self, stand: Stand) -> None:
        super().__init__(Draft(stand.base, stand.run.id))
        self._stand = stand
        self._change: tuple[Verdict, Relayout | None] | None = None
        """The newest verdict that a thread came to, with the change that it is of."""

    def make_form(self) -> Form:
        return Form(self._draft.texts, ("Layout", "Training"), FIELDS)

    def on_mount(self) -> None:
        super().on_mount()
        self.call_after_refresh(self.query_one(Form).focus_field, STRATEGY)

    def origin_words(self) -> str:
        return f"Until now {layout_summary(self._stand.plan.layout)}   {self._stand.run.id}"

    def judge_draft(self, draft: Draft, machine: Machine | None) -> Verdict:
        self._change = judge_relayout(draft, self._stand, machine)
        return self._change[0]

    def start(self, verdict: Verdict) -> None:
        if self._change is None or self._change[0] is not verdict or verdict.estimate is None:
            return
        run, change, found = self._stand.run, self._change[1], verdict.estimate
        if change is None:
            return
        self.set_starting(True)

        def resume() -> str:
            from engine.planner.estimate import plan_object
            from engine.runs import control
            from engine.runs.preflight import require_hosts

            require_hosts(change.layout, change.spec)
            control.resume_under(run, change, plan_object(found))
            return change.message

        self.deck.in_background(resume, self._resumed, failed=self.not_started)

    def _resumed(self, words: str) -> None:
        self.set_starting(False)
        self.deck.open_run(self._stand.run)
        self.deck.notify(words, markup=False)


def open_relayout(deck: TraindeckApp, run: RunDirectory) -> None:
    """Show the form for ``run``; a run that cannot change its layout is refused with the reason."""

    def show(stand: Stand) -> None:
        deck.push_screen(RelayoutScreen(stand))

    deck.in_background(lambda: read_stand(run), show)
