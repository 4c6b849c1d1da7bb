"""``slurm.json``: the Slurm job of a run, and what follows from it for the state of the run."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import filelock
import msgspec

from engine.contract.durable import write_durably
from engine.contract.errors import RunError
from engine.contract.events import CommandDone, State
from engine.contract.journal import Journal
from engine.contract.records import read_record
from engine.contract.rundir import Command, RunDirectory
from engine.runs import slurm
from engine.runs.inbox import append_command

SCRIPT = "job.sh"
ASK_SECONDS = 5.0
"""How old Slurm's word on a job may be: a list of runs that is redrawn must not load the controller."""
QUIET_SECONDS = 10.0
"""A run that wrote something within this time works: Slurm need not be asked. Telemetry comes every second."""
SILENT_SECONDS = 60.0
"""After this long a run of which Slurm cannot be asked is taken for lost."""
LOCK_SECONDS = 2.0


class SlurmJob(msgspec.Struct, frozen=True, kw_only=True):
    """What ``slurm.json`` holds."""

    job: int
    submitted: bool
    """Whether the batch script of the run was submitted; False for a run that was started in an allocation."""
    time: float
    """When that was, in seconds since the epoch."""


def job_file(run: RunDirectory) -> Path:
    """Where the job of a run is noted."""
    return run.path / "slurm.json"


def read_job(run: RunDirectory) -> SlurmJob | None:
    """The newest Slurm job of a run; None for one that has none."""
    return read_record(job_file(run), SlurmJob)


def write_job(run: RunDirectory, job: int, *, submitted: bool) -> None:
    """Note the job of a run. Raises OSError where it cannot be written."""
    record = SlurmJob(job=job, submitted=submitted, time=time.time())
    write_durably(job_file(run), msgspec.json.encode(record))


_reports: dict[int, tuple[float, slurm.JobReport | None]] = {}
_silent: list[float] = []
"""When Slurm last did not answer, if it ever did not: then no job is asked for, as each question takes seconds."""
_lock = threading.Lock()


def report_of(job: int) -> slurm.JobReport | None:
    """What Slurm said of a job at most some seconds ago; None where it cannot be asked."""
    now = time.monotonic()
    with _lock:
        known = _reports.get(job)
        silent_since = _silent[-1] if _silent else -math.inf
    if known is not None and now - known[0] < ASK_SECONDS:
        return known[1]
    if now - silent_since < QUIET_SECONDS:
        return None
    report = slurm.look(job)
    with _lock:
        if report is None:
            _silent[:] = [time.monotonic()]
        _reports[job] = (time.monotonic(), report)
    return report


def standing(job: SlurmJob, silent_seconds: float, host: str | None) -> tuple[Literal["queued", "lost"], str] | None:
    """What a run really is that says that it is live, and why; None where it is what it says, or nobody can tell.

    ``silent_seconds``: how long nothing was heard of it. ``host``: where its supervisor worked, None if none began.
    """
    if host is not None and silent_seconds < QUIET_SECONDS:
        return None
    report = report_of(job.job)
    if report is None:
        if host is None or silent_seconds < SILENT_SECONDS:
            return None  # unknown is not lost
        return "lost", (
            f"it ran on {host} as Slurm job {job.job}, Slurm cannot be asked from here, and nothing was heard"
            f" from there for {silent_seconds:.0f} seconds"
        )
    if report.waits:
        return "queued", f"Slurm job {job.job} waits" + (f" ({report.reason})" if report.reason else "")
    if report.works:
        return None
    why = slurm.ending_words(job.job, report)
    if host is None and report.state != "CANCELLED":
        why += "; no supervisor began: is the folder of the run on a file system that the nodes share?"
    return "lost", why


def submit(run: RunDirectory, command: Sequence[str]) -> int:
    """Submit the job of a run that no supervisor looks after, and say so in its events; the id of the job.

    The supervisor's lock is held meanwhile: its place in the events is free, and a job that begins at once waits.
    Raises RunError with what sbatch objects to.
    """
    try:
        with _place_of_the_supervisor(run):
            job = slurm.submit(command)
            write_job(run, job, submitted=True)
            with Journal(run.events_of("supervisor")) as journal:
                journal.write(State(state="queued", reason=f"submitted as Slurm job {job}"))
            return job
    except filelock.Timeout:
        raise RunError(
            "The run is already running", f"{run.id} has a supervisor", f"See: traindeck status {run.id}"
        ) from None
    except OSError as error:
        message = f"{run.path} cannot be written: {error.strerror or error}"
        raise RunError("The run could not note its Slurm job", message, "See: squeue --me") from None


def cancel(run: RunDirectory, job: SlurmJob) -> Command | None:
    """Cancel the waiting job of a run, and say so in its events; None if it has begun meanwhile.

    Raises RunError where Slurm refuses.
    """
    try:
        with _place_of_the_supervisor(run):
            if not slurm.cancel_waiting(job.job):
                return None
            with _lock:
                _reports.pop(job.job, None)
            command = append_command(run, "stop")
            with Journal(run.events_of("supervisor")) as journal:
                journal.write(CommandDone(id=command.id, action="stop", accepted=True))
                journal.write(State(state="finished", reason="stopped before training"))
            return command
    except filelock.Timeout:
        return None
    except OSError as error:
        title = "The Slurm job is cancelled, and the run could not be told"
        raise RunError(title, f"{run.path}: {error.strerror or error}") from None


def _place_of_the_supervisor(run: RunDirectory) -> filelock.BaseFileLock:
    """The lock that a supervisor holds while it lives."""
    return filelock.FileLock(run.path / "supervisor.lock", timeout=LOCK_SECONDS, mode=0o600)
