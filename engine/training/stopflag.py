"""The wish of the system that a worker ends."""

from __future__ import annotations

import os
import signal
from types import FrameType

WHY_STOP = ("asked by a signal", "the process that watched over it is gone")
"""What a flag can say."""


class StopFlag:
    """Set by SIGTERM, SIGINT and SIGUSR1, and when the launcher of this worker is gone. A handler does nothing else.

    A detached run has its own session, so that the ctrl-c of a terminal never gets here; who starts
    torchrun by hand and presses ctrl-c wants the training to end, and it ends with a checkpoint. SIGUSR1 is how
    batch systems say that a job's time is nearly over.
    """

    def __init__(self, *, watch_parent: bool) -> None:
        self._signalled = False
        self._parent = os.getppid() if watch_parent else None
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True

    def reason(self) -> str | None:
        """Why this process has to stop; None if it has not."""
        if self._signalled:
            return WHY_STOP[0]
        if self._parent is not None and os.getppid() != self._parent:
            return WHY_STOP[1]
        return None
