"""``stop pause resume checkpoint delete``: requests to a run, and what became of them."""

from __future__ import annotations

import time

from engine.contract.errors import RunError
from engine.contract.rundir import Command, RunDirectory
from engine.contract.states import LIVE, Action
from engine.runs import control
from engine.runs.remove import delete_run
from engine.runs.state import read_state
from engine.runs.status import find_run
from tui.commands.output import confirm, emit, note, say, tell
from tui.text import printable, reason_words

ANSWER_SECONDS = 60.0
"""A request is answered at the end of a step; steps of large models on a slow machine take long."""
END_SECONDS = 180.0
POLL_SECONDS = 0.1


def ask(name: str, action: Action, *, as_json: bool, until_ended: bool = False) -> None:
    """Send a request and wait for its answer. Raises RunError where the run refuses it or does not answer."""
    run = find_run(name)
    command = control.resume(run) if action == "resume" else control.request(run, action)
    said = _await_answer(run, action, command) if command is not None else ""
    if until_ended:
        _await_end(run)
    _report(run, action, said if action == "checkpoint" else "", as_json=as_json)


def _await_answer(run: RunDirectory, action: Action, command: Command) -> str:
    """What the run said to it, such as which checkpoint was written; may be empty."""
    done = control.wait_for(run, command, ANSWER_SECONDS)
    if done is None:
        if read_state(run)[0] not in LIVE and action == "stop":
            return ""
        raise RunError(
            f"The run did not answer within {ANSWER_SECONDS:.0f} seconds",
            f"{action} is noted and will be carried out at the end of a step, if the run still works",
            f"See: traindeck logs {run.id}",
        )
    if not done.accepted:
        raise RunError(f"The run refused to {action}", done.message)
    return done.message


def _await_end(run: RunDirectory) -> None:
    deadline = time.monotonic() + END_SECONDS
    while read_state(run)[0] in LIVE:
        if time.monotonic() > deadline:
            raise RunError(
                f"The run has not ended after {END_SECONDS:.0f} seconds", run.id, f"See: traindeck logs {run.id}"
            )
        time.sleep(POLL_SECONDS)


def _report(run: RunDirectory, action: Action, said: str, *, as_json: bool) -> None:
    state, reason = read_state(run)
    if as_json:
        emit({"run": run.id, "directory": str(run.path), "state": state, "message": said or None})
        return
    reason = said or reason_words(state, reason or "")
    name = printable(run.id, newlines=False)
    say(f"{name}: {state}" + (f" ({printable(reason, newlines=False)})" if reason else ""))
    if action in {"pause", "stop"}:
        note(f"go on with: traindeck resume {name}")


def delete(name: str, *, yes: bool, as_json: bool) -> None:
    """Delete an ended run once the person has agreed."""
    run = find_run(name)
    shown = printable(run.id, newlines=False)
    confirm(f"Delete {shown} with its checkpoints ({printable(str(run.path), newlines=False)})?", yes=yes)
    delete_run(run)
    tell({"deleted": run.id, "directory": str(run.path)}, f"deleted {shown}", as_json=as_json)
