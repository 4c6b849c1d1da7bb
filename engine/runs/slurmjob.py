"""``slurm.json``: the Slurm job of a run, and what follows from it for the state of the run."""

from __future__ import annotations

import threading
import time

import filelock
import msgspec

from engine.contract.durable import write_durably
from engine.contract.errors import RunError
from engine.contract.events import CommandDone, State
from engine.contract.journal import Journal
from engine.contract.records import read_record
from engine.contract.rundir import Command, RunDirectory
from engine.contract.states import RunStateName
from engine.runs import slurm
from engine.runs.inbox import append_command

FILE = "slurm.json"
SCRIPT = "job.sh"
ASK_SECONDS = 5.0
"""How old Slurm's word on a job may be: a list of runs that is redrawn must not load the controller."""
QUIET_SECONDS = 10.0
"""A run that wrote something within this time works: Slurm need not be asked. Telemetry comes every second."""
LOCK_SECONDS = 5.0


class SlurmJob(msgspec.Struct, frozen=True, kw_only=True):
    """What ``slurm.json`` holds."""

    job: int
    submitted: bool
    """Whether the batch script of the run was submitted; False for a run that was started in an allocation."""
    time: float
    """When that was, in seconds since the epoch."""


def read_job(run: RunDirectory) -> SlurmJob | None:
    """The newest Slurm job of a run; None for one that has none."""
    return read_record(run.path / FILE, SlurmJob)


def write_job(run: RunDirectory, job: int, *, submitted: bool) -> None:
    """Note the job of a run. Raises OSError where it cannot be written."""
    record = SlurmJob(job=job, submitted=submitted, time=time.time())
    write_durably(run.path / FILE, msgspec.json.encode(record))


_reports: dict[int, tuple[float, slurm.JobReport | None]] = {}
_lock = threading.Lock()


def report_of(job: int) -> slurm.JobReport | None:
    """What Slurm said of a job at most some seconds ago; None where it cannot be asked."""
    now = time.monotonic()
    with _lock:
        known = _reports.get(job)
    if known is not None and now - known[0] < ASK_SECONDS:
        return known[1]
    report = slurm.look(job)
    with _lock:
        _reports[job] = (time.monotonic(), report)
    return report


def lost_because(job: SlurmJob, silent_seconds: float, host: str | None) -> str | None:
    """Why a run that says that it is live is not; None while it may be.

    ``silent_seconds``: how long nothing was heard of it. ``host``: where its supervisor worked, None if none began.
    """
    if silent_seconds < QUIET_SECONDS:
        return None
    report = report_of(job.job)
    if report is None:
        if host is None or silent_seconds < 60.0:
            return None  # unknown is not lost
        return f"it ran on {host} as Slurm job {job.job}, and nothing was heard from there for {silent_seconds:.0f} s"
    if report.waits or report.works:
        return None
    why = slurm.ending_words(job.job, report)
    if host is None and report.state != "CANCELLED":
        why += ", and its supervisor never began: is the run's folder on a file system that the nodes have, too?"
    return why


def waiting(job: SlurmJob, silent_seconds: float) -> str | None:
    """Why the job of a run waits in the queue, in words; None where it does not wait, or nobody can tell."""
    if silent_seconds < QUIET_SECONDS and silent_seconds < time.time() - job.time - 1.0:
        return None
    report = report_of(job.job)
    if report is None or not report.waits:
        return None
    because = f": {report.reason}" if report.reason else ""
    return f"Slurm job {job.job} waits in the queue{because}"


def cancel(run: RunDirectory, job: SlurmJob, state: RunStateName) -> Command | None:
    """Cancel the waiting job of a run, and say so in its events; None if it has begun meanwhile.

    No supervisor lives while the job waits, so that its place in the events is free; its lock is held all the same.
    Raises RunError where Slurm refuses.
    """
    try:
        with filelock.FileLock(run.path / "supervisor.lock", timeout=LOCK_SECONDS, mode=0o600):
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
