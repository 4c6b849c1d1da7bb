"""What can be said of a spec while it is typed: problems, size, memory, layout, and the command that starts it."""

# ruff: noqa: PLC0415 (the planner is imported with the first verdict, in the thread that needs it)
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.contract.check import check
from engine.contract.errors import Problem, SpecError
from engine.contract.machine import Machine
from engine.contract.shape import ModelShape
from engine.contract.spec import RunSpec
from tui.draft import Draft
from tui.summary import shape_of

if TYPE_CHECKING:
    from engine.planner.estimate import Estimate


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """See the module. Unknown is None."""

    spec: RunSpec
    problems: tuple[Problem, ...]
    """All that keep the training from starting."""
    doubts: tuple[Problem, ...] = ()
    """Reasons why it will probably not fit: it can be started all the same."""
    shape: ModelShape | None = None
    parameters: int | None = None
    estimate: Estimate | None = None
    command: str = ""
    changed: bool = False
    """Whether the draft says other than what it started from."""


def judge(draft: Draft, machine: Machine | None) -> Verdict:
    """Judge a draft; reads folders and files that it names, so it is called in a thread."""
    from engine.planner.estimate import estimate, fit_problems
    from engine.planner.shapes import parameter_count

    spec, problems = draft.read()
    told = {problem.field for problem in problems}
    problems += [problem for problem in check(spec, machine) if problem.field not in told]
    model_is_sound = not any(problem.field.startswith(("model.", "tokenizer.vocabulary")) for problem in problems)
    shape = shape_of(spec) if model_is_sound else None
    found: Estimate | None = None
    doubts: list[Problem] = []
    if machine is not None and not problems:
        try:
            found = estimate(spec, machine)
        except SpecError as error:
            problems += error.problems
        else:
            doubts = fit_problems(found)
    return Verdict(
        spec=spec,
        problems=tuple(problems),
        doubts=tuple(doubts),
        shape=found.shape if found else shape,
        parameters=found.parameters if found else parameter_count(shape) if shape else None,
        estimate=found,
        command=draft.command(spec),
        changed=draft.changed,
    )
