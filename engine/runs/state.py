"""What state a run is in: what its processes said last, unless they are gone."""

from __future__ import annotations

import msgspec

from engine.contract.errors import RunError
from engine.contract.events import State
from engine.contract.records import UNREADABLE
from engine.contract.rundir import RunDirectory, RunInfo
from engine.contract.states import ENDED, LIVE, RunStateName
from engine.runs.liveness import standing
from engine.runs.pace import newest_state
from engine.runs.rare import read_rare


def read_info(run: RunDirectory) -> RunInfo:
    """What ``run.json`` says. Raises RunError for a directory that is not a run."""
    try:
        return msgspec.json.decode(run.info.read_bytes(), type=RunInfo)
    except (FileNotFoundError, NotADirectoryError):
        raise RunError("Not a Traindeck run", f"{run.path} has no {run.info.name}", "See: traindeck runs") from None
    except (OSError, *UNREADABLE) as error:
        raise RunError("Not a readable Traindeck run", f"{run.info}: {error}") from None


def read_state(run: RunDirectory, info: RunInfo | None = None) -> tuple[RunStateName, str | None]:
    """The state and, where there is one, the reason. Raises RunError for a directory that is not a run."""
    info = read_info(run) if info is None else info
    state = _said(run)
    if state is None or state.state in LIVE:
        really = standing(run, info.created)
        if really is not None and (state := _said(run)) is not None and state.state in ENDED:
            really = None  # it ended between the two looks
        if really is not None:
            return really
    return ("queued", None) if state is None else (state.state, state.reason or None)


def _said(run: RunDirectory) -> State | None:
    return newest_state(read_rare(run.events_of("supervisor")).state, read_rare(run.events_of("rank0")).state)
