"""A process that the supervisor started and will outlive."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from engine.contract.rundir import RunDirectory


class Child:
    """Runs in a process group of its own, with the log as its output; dies with the supervisor."""

    def __init__(self, run: RunDirectory, command: Sequence[str], environment: Mapping[str, str]) -> None:
        with run.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "engine.runs.guard", "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=run.path,
                env=environment,
                process_group=0,
            )
        self.command = tuple(command)

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def signal(self, number: signal.Signals) -> None:
        """Send ``number`` to it and to those of its children that have no session of their own."""
        if self.poll() is None:
            os.killpg(self.pid, number)

    def wait(self, seconds: float) -> int | None:
        """The exit code; None if it still runs after ``seconds``."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
