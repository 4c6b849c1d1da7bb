"""Whether the supervisor of a run is there."""

from __future__ import annotations

import math
import os
import time
from typing import Literal

from engine.contract.records import read_record
from engine.contract.rundir import ProcessIdentity, RunDirectory
from engine.hardware.host import is_alive, is_local
from engine.runs import slurmjob
from engine.runs.slurmjob import SlurmJob, read_job

SILENT_SECONDS = 60.0
"""A run on another host that has written nothing for this long is taken for lost: telemetry comes every second."""
LAUNCH_SECONDS = 60.0
"""How long a new run may be without a supervisor."""
_CLOCKS_SECONDS = 2.0
"""How far the clocks of two hosts may be apart."""


def read_identity(run: RunDirectory) -> ProcessIdentity | None:
    """Who supervises, or supervised last; None for a run that was never started."""
    return read_record(run.supervisor, ProcessIdentity)


def lost_because(run: RunDirectory, created: float) -> str | None:
    """Why a run that says it is live is not; None while its supervisor lives, or waits for Slurm to start it."""
    really = standing(run, created)
    return really[1] if really is not None and really[0] == "lost" else None


def standing(run: RunDirectory, created: float) -> tuple[Literal["queued", "lost"], str] | None:
    """What a run that says it is live really is, and why; None where it is what it says."""
    job = read_job(run)
    if job is not None and job.submitted:
        return _in_slurm(run, job)
    reason = _lost_because(run, created)
    return None if reason is None else ("lost", reason)


def _in_slurm(run: RunDirectory, job: SlurmJob) -> tuple[Literal["queued", "lost"], str] | None:
    """Slurm knows more than the process table of this host, and is asked only where the run is silent."""
    supervisor = read_identity(run)
    if supervisor is not None and (supervisor.started or 0.0) < job.time - _CLOCKS_SECONDS:
        supervisor = None  # of an earlier job
    if supervisor is None:
        return slurmjob.standing(job, time.time() - job.time, None)
    if is_local(supervisor):
        return None if is_alive(supervisor) else slurmjob.standing(job, math.inf, supervisor.host)
    return slurmjob.standing(job, time.time() - _last_sign(run), supervisor.host)


def _lost_because(run: RunDirectory, created: float) -> str | None:
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
