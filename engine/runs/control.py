"""Requests to a run: pause, resume, stop, checkpoint."""

from __future__ import annotations

import time
from typing import Any

from engine.contract.errors import RunError
from engine.contract.events import CommandDone
from engine.contract.journal import EventReader
from engine.contract.rundir import Command, RunDirectory
from engine.contract.states import ENDED, TAKES, Action
from engine.runs.budgetleft import require_budget_left
from engine.runs.inbox import append_command
from engine.runs.launch import start
from engine.runs.relayout import Relayout, change_layout, changing, require_changeable
from engine.runs.scan import line_start
from engine.runs.slurmjob import cancel, read_job
from engine.runs.state import read_state

__all__ = ["Command", "request", "resume", "resume_under", "wait_for"]

_REACH = 1 << 20
"""How far back in an event file the acknowledgement of a request made just now can be, in bytes."""
_POLL_SECONDS = 0.05
_BEGIN_SECONDS = 30.0
"""How long the supervisor of a job that Slurm has just started may take to load."""
_END_SECONDS = 180.0
"""How long a paused run may take to write its checkpoint and end."""


def request(run: RunDirectory, action: Action) -> Command:
    """Ask the processes of a run for something; they acknowledge it by an event (see :func:`wait_for`).

    Raises RunError where the run's state does not take the action.
    """
    state, _ = read_state(run)
    if state not in TAKES[action] or state in ENDED:
        possible = [name for name, states in TAKES.items() if state in states]
        raise RunError(
            f"Cannot {action} a run that is {state}",
            run.id,
            f"It can take: {', '.join(possible)}." if possible else "Wait until it has ended, then resume it.",
        )
    if action == "stop" and state == "queued" and (job := read_job(run)) is not None and job.submitted:
        if (cancelled := cancel(run, job)) is not None:
            return cancelled
        _wait_for_supervisor(run)
    return append_command(run, action)


def _wait_for_supervisor(run: RunDirectory) -> None:
    """A job has begun, and its supervisor may still be loading: it reads what is asked once it has said so."""
    deadline = time.monotonic() + _BEGIN_SECONDS
    while read_state(run)[0] == "queued" and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


def resume(run: RunDirectory) -> Command | None:
    """Go on with a paused run, or start an ended one again from its newest good checkpoint.

    Returns the request to a paused one; None where the processes were started anew. Raises RunError, also where its
    budget is used up.
    """
    if read_state(run)[0] in ENDED:
        require_budget_left(run)
        start(run)
        return None
    return request(run, "resume")


def resume_under(run: RunDirectory, change: Relayout, estimate_json: dict[str, Any] | None = None) -> None:
    """Go on with an ended run, or with a paused one once it has ended, under the layout of ``change``.

    Raises RunError; a run that trains has to be stopped first, and one whose budget is used up needs more of it.
    """
    require_changeable(run)
    require_budget_left(run, change.spec.budget)
    if read_state(run)[0] == "paused":
        request(run, "stop")
        deadline = time.monotonic() + _END_SECONDS
        while read_state(run)[0] not in ENDED and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
    with changing(run):
        change_layout(run, change, estimate_json)
        start(run)


def wait_for(run: RunDirectory, command: Command, timeout: float) -> CommandDone | None:
    """The run's answer to a request; None if there is none within ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    paths = [run.events_of("supervisor"), run.events_of("rank0")]
    readers = [EventReader(path, line_start(path, _REACH)) for path in paths]
    while True:
        for reader in readers:
            for event in reader.read_all():
                if isinstance(event, CommandDone) and event.id == command.id:
                    return event
        if time.monotonic() >= deadline:
            return None
        time.sleep(_POLL_SECONDS)
