"""One worker process: from its command line to its exit code."""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path

from torch import distributed

from engine.contract.errors import RunError
from engine.contract.rundir import RunDirectory
from engine.training.devices import launched_by_torchrun
from engine.training.failure import describe, write_report
from engine.training.inputs import open_run, read_inputs
from engine.training.loop import train
from engine.training.reporter import Reporter
from engine.training.setup import open_session, resume, tell_start
from engine.training.stopflag import StopFlag

LOCK = "training.lock"


def work(path: Path, started: float) -> int:
    """Train the run in ``path``; 0 when it ended as planned or was stopped, 1 when it failed.

    A failure is told in ``errors/rank<k>.json`` and on stderr. ``started`` is when this process began.
    """
    rank = int(os.environ.get("RANK", "0"))
    try:
        run = open_run(path)
    except RunError as error:  # there is no run to leave a report in
        print(error, file=sys.stderr)
        return 1
    reporter = Reporter(run, rank)
    try:
        run.error_of(rank).unlink(missing_ok=True)
        lock = take_lock(run) if rank == 0 else None
        session = open_session(read_inputs(run), reporter, StopFlag(watch_parent=launched_by_torchrun()), started)
        tell_start(session, resume(session))
        train(session)
    except BaseException as error:
        try:
            write_report(run, describe(error, rank))
            reporter.close()
        finally:
            # Other ranks may hang in a collective that this process would wait for when it takes itself down.
            os._exit(1)
    reporter.close()
    if distributed.is_initialized():
        distributed.destroy_process_group()
    if lock is not None:
        os.close(lock)
    return 0


def take_lock(run: RunDirectory) -> int:
    """Hold the run for this process alone, until it ends. Raises RunError if another one trains it."""
    handle = os.open(run.path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise RunError(
            "The run is being trained already", f"Another process works in {run.path}", "Attach to it, or stop it first"
        ) from None
    except OSError:
        pass  # a file system without locks: the supervisor's own check has to do
    return handle
