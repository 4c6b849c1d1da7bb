"""A run's next layout while a person types it: what it goes on from, and what can be said of it. No Textual import."""

# ruff: noqa: PLC0415 (the planner is imported with the first verdict, in the thread that needs it)
from __future__ import annotations

import shlex
from dataclasses import dataclass

from engine.contract.errors import Problem, SpecError
from engine.contract.machine import Machine
from engine.contract.plan import PlanFile
from engine.contract.rundir import RunDirectory
from engine.contract.spec import RunSpec
from engine.runs.relayout import (
    BATCH,
    CHANGEABLE,
    Relayout,
    plan_relayout,
    read_former,
    require_changeable,
    starting_point,
)
from tui.draft import Draft, settings
from tui.judge import Verdict

FIELDS = frozenset({*CHANGEABLE, BATCH})
"""What the form asks for."""


@dataclass(frozen=True, kw_only=True)
class Stand:
    """Where a run stands that is to go on under another layout."""

    run: RunDirectory
    former: RunSpec
    plan: PlanFile

    @property
    def base(self) -> RunSpec:
        """What the form is filled in with."""
        return starting_point(self.former, self.plan.layout, self.former.layout.strategy)

    def overrides(self, spec: RunSpec) -> list[str]:
        """The ``--set`` of ``traindeck resume`` that make of the run what is typed."""
        strategy = spec.layout.strategy
        chosen = [f"layout.strategy={strategy}"] if strategy != self.former.layout.strategy else []
        return chosen + settings(starting_point(self.former, self.plan.layout, strategy), spec)

    def command(self, spec: RunSpec) -> str:
        """The command line that does the same."""
        words = [word for override in self.overrides(spec) for word in ("--set", override)]
        return shlex.join(["traindeck", "resume", self.run.id, *words])


def read_stand(run: RunDirectory) -> Stand:
    """Read a run that can change its layout. Raises TraindeckError for any other."""
    require_changeable(run)
    former, plan = read_former(run)
    return Stand(run=run, former=former, plan=plan)


def judge_relayout(draft: Draft, stand: Stand, machine: Machine | None) -> tuple[Verdict, Relayout | None]:
    """Judge a draft whose base is that of ``stand``, and the change that it means; called in a thread."""
    from engine.planner.estimate import Estimate, estimate, fit_problems
    from engine.planner.shapes import parameter_count
    from tui.summary import shape_of

    spec, problems = draft.read()
    change: Relayout | None = None
    found: Estimate | None = None
    doubts: list[Problem] = []
    if machine is not None:
        try:
            change = plan_relayout(stand.run, stand.overrides(spec), machine)
            found = estimate(change.spec, machine)
            doubts = fit_problems(found)
        except SpecError as error:
            told = {problem.field for problem in problems}
            problems += [problem for problem in error.problems if problem.field not in told]
    shape = found.shape if found else shape_of(spec)
    verdict = Verdict(
        spec=spec,
        problems=tuple(problems),
        doubts=tuple(doubts),
        shape=shape,
        parameters=found.parameters if found else parameter_count(shape) if shape else None,
        estimate=None if problems else found,
        command=stand.command(spec),
        changed=draft.changed,
    )
    return verdict, None if problems else change
