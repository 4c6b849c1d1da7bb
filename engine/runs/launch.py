"""Starting a run: its supervisor, detached from whatever starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from engine.contract.errors import RunError
from engine.contract.rundir import RunDirectory
from engine.runs.command import process_environment, training_command, training_environment
from engine.runs.detach import How, choose, prefix
from engine.runs.logfile import log_tail
from engine.runs.slurmscript import has_script, job_of_this_process, submit_run
from engine.runs.state import read_info

__all__ = ["start", "training_command", "training_environment"]

START_SECONDS = 30.0
ALREADY_SUPERVISED = 3
"""Exit code of a supervisor that finds another one at work."""


def start(run: RunDirectory) -> None:
    """Start the processes of a run, new or ended, and return once its supervisor has written its first event.

    The supervisor is no child of this process afterwards: it has its own session and no terminal. A run with a batch
    script is submitted to Slurm instead, unless this process is in an allocation already. Raises RunError.
    """
    read_info(run)
    if has_script(run) and job_of_this_process() is None:
        submit_run(run)
        return
    how = choose()
    code, begin = _spawn(run, how)
    if code not in {0, ALREADY_SUPERVISED} and how == "systemd-run":
        # No user manager answers (a login without one, as from cron or su): the plain way is left.
        code, begin = _spawn(run, "setsid")
    if code == ALREADY_SUPERVISED:
        raise RunError("The run is already running", f"{run.id} has a supervisor", f"See: traindeck status {run.id}")
    if code != 0:
        raise _not_started(run, begin, f"its supervisor ended with code {code}")


def _spawn(run: RunDirectory, how: How) -> tuple[int, int]:
    """Exit code of the supervisor's first process, 0 once the one it left behind works, and the log's length before."""
    command = [
        *prefix(how), sys.executable, "-P", "-m", "engine.runs.supervisor",
        "--run-dir", str(run.path), "--detached", how,
    ]  # fmt: skip
    begin = 0
    try:
        file = os.open(run.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(file, "ab") as log:
            begin = os.fstat(log.fileno()).st_size
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=run.path,
                env=process_environment(),
                start_new_session=True,
            )
    except OSError as error:
        raise _not_started(run, begin, str(error)) from None
    try:
        return process.wait(START_SECONDS), begin
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # a supervisor that comes up after this error would surprise
        process.wait()
        raise _not_started(run, begin, f"its supervisor said nothing for {START_SECONDS:.0f} seconds") from None


def _not_started(run: RunDirectory, begin: int, message: str) -> RunError:
    tail = "\n".join(f"  {line}" for line in log_tail(run.log, begin))
    return RunError("The run could not be started", f"{message}\n{tail}".rstrip(), f"The log is {run.log}")
