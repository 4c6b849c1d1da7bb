"""Whether an ended run has anything left to do."""

from __future__ import annotations

from engine.contract.errors import RunError
from engine.contract.events import Ended, Started, Train
from engine.contract.rundir import RunDirectory, complete_checkpoints
from engine.contract.spec import BudgetSpec
from engine.contract.specfile import read_spec
from engine.runs.scan import backwards


def require_budget_left(run: RunDirectory, budget: BudgetSpec | None = None) -> None:
    """Raises RunError where ``run`` ended at a limit that its spec still has: it would end again at once.

    ``budget`` is what it is to have; None: what its spec says. A run whose last checkpoint is gone has work to do over
    again. Raises SpecError where its spec cannot be read.
    """
    ended = _last_end(run)
    if ended is None or f"step-{ended.step}" not in {folder.name for folder in complete_checkpoints(run)}:
        return
    limit, used = _limit(budget or read_spec(run.spec).budget, ended)
    if limit is not None and used >= limit:
        raise RunError(
            "Its budget is used up",
            f"{run.id} has done {used:,.10g} of budget.{ended.reason} = {limit:,.10g}",
            f"Give it more: traindeck resume {run.id} --set budget.{ended.reason}={_more(limit)}",
        )


def _last_end(run: RunDirectory) -> Ended | None:
    for event in backwards(run.events_of("rank0")):
        if isinstance(event, Ended):
            return event
        if isinstance(event, Train | Started):
            return None
    return None


def _limit(budget: BudgetSpec, ended: Ended) -> tuple[float | None, float]:
    """The limit that ended the run, as its spec has it now, and how much of it is used."""
    match ended.reason:
        case "max_steps":
            return budget.max_steps, ended.step or 0
        case "max_tokens":
            return budget.max_tokens, ended.tokens
        case "max_seconds":
            return budget.max_seconds, ended.elapsed_seconds
        case _:  # stopped; and how many steps make an epoch, only the data knows
            return None, 0


def _more(limit: float) -> str:
    """Twice ``limit``, as one would type it."""
    return f"{2 * limit:.10g}"
