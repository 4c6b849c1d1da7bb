"""Whether the supervisor of a run is there."""

from __future__ import annotations

import os
import time

from engine.contract.records import read_record
from engine.contract.rundir import ProcessIdentity, RunDirectory
from engine.hardware.host import is_alive, is_local

SILENT_SECONDS = 60.0
"""A run on another host that has written nothing for this long is taken for lost: telemetry comes every second."""
LAUNCH_SECONDS = 60.0
"""How long a new run may be without a supervisor."""


def read_identity(run: RunDirectory) -> ProcessIdentity | None:
    """Who supervises, or supervised last; None for a run that was never started."""
    return read_record(run.supervisor, ProcessIdentity)


def lost_because(run: RunDirectory, created: float) -> str | None:
    """Why a run that says it is live is not; None while its supervisor lives."""
    supervisor = read_identity(run)
    if supervisor is None:
        return "it was never started" if time.time() - created > LAUNCH_SECONDS else None
    if is_local(supervisor):
        return None if is_alive(supervisor) else "its supervisor is gone: it was killed, or the machine restarted"
    silent = time.time() - _last_sign(run)
    if silent < SILENT_SECONDS:
        return None
    return f"it ran on {supervisor.host}, and nothing was heard from there for {silent:.0f} seconds"


def _last_sign(run: RunDirectory) -> float:
    latest = 0.0
    for folder in (run.events, run.telemetry):
        if folder.is_dir():
            with os.scandir(folder) as entries:
                latest = max([latest, *(entry.stat().st_mtime for entry in entries)])
    return latest
