"""``resume --set``: a run goes on under another layout, or is said what it would go on under."""

from __future__ import annotations

from collections.abc import Sequence

from engine.contract.errors import RunError, TraindeckError
from engine.hardware.detect import detect
from engine.planner.estimate import estimate, fit_problems, plan_object
from engine.runs import control
from engine.runs.preflight import require_hosts
from engine.runs.relayout import plan_relayout, require_changeable
from engine.runs.state import read_state
from engine.runs.status import find_run
from tui.commands.output import emit, note, say
from tui.commands.planning import estimate_text
from tui.text import printable


def resume_under(name: str, sets: Sequence[str], *, dry_run: bool, force: bool, as_json: bool) -> None:
    """Change the layout of an ended or paused run and start it. Raises TraindeckError before anything is touched."""
    run = find_run(name)
    machine = detect()
    try:
        change = plan_relayout(run, sets, machine)  # first: a field that cannot change never can, in no state
    except RunError:
        if not dry_run:
            require_changeable(run)  # a run that has only begun may have no plan yet
        raise
    if not dry_run:
        require_changeable(run)
    found = estimate(change.spec, machine)
    problems = fit_problems(found)
    if dry_run:
        if as_json:
            plans = {"layout": change.layout, "former_layout": change.former_plan.layout, "plan": plan_object(found)}
            emit({"run": run.id, "directory": str(run.path), "message": change.message, **plans})
            return
        say(f"{printable(change.message, newlines=False)}\n\n{estimate_text(change.spec, found)}")
        for problem in problems:
            say(f"! {printable(str(problem))}")
        return
    if problems and not force:
        raise TraindeckError("It does not fit", "\n".join(map(str, problems)), "Start it all the same with --force.")
    for problem in problems:
        note(f"warning: {printable(str(problem))}")
    checked = require_hosts(change.layout, change.spec)
    for odd in checked.warnings if checked else ():
        note(f"warning: {printable(odd.message, newlines=False)}")
    control.resume_under(run, change, plan_object(found))
    state, _ = read_state(run)
    if as_json:
        emit({"run": run.id, "directory": str(run.path), "state": state, "message": change.message})
    else:
        say(f"{printable(run.id, newlines=False)}: {state} ({printable(change.message, newlines=False)})")
