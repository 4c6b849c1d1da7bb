"""Events of one rank."""

from __future__ import annotations

import contextlib
import sys
from typing import Literal

from engine.contract.events import Event, Notice
from engine.contract.journal import Journal
from engine.contract.rundir import RunDirectory


class Reporter:
    """Writes the events of a rank. A full disk costs events, never the training.

    Rank 0 speaks for the run; of the others only notices are written, and their files come into being with
    the first one.
    """

    def __init__(self, run: RunDirectory, rank: int) -> None:
        self._path = run.events_of(f"rank{rank}")
        self._speaks = rank == 0
        self._journal: Journal | None = None
        self._lost = 0
        self.step: int | None = None
        """Stamped on events that do not say theirs."""

    def emit(self, event: Event) -> None:
        """Append ``event`` on rank 0; events that were lost are owned up to when there is room again."""
        if self._speaks:
            self._write(event)

    def notice(self, message: str, level: Literal["info", "warning", "error"] = "warning") -> None:
        """Tell something that stops nothing, in the events of this rank and in the log."""
        self._complain(f"{level}: {message}")
        self._write(Notice(level=level, message=message))

    def _write(self, event: Event) -> None:
        if event.step is None:
            event.step = self.step
        try:
            if self._journal is None:
                self._journal = Journal(self._path)
            if self._lost:
                message = f"{self._lost} events were lost: they could not be written (was the disk full?)"
                self._journal.write(Notice(level="error", step=self.step, message=message))
                self._lost = 0
            self._journal.write(event)
        except OSError as error:
            self._lost += 1
            if self._lost == 1:
                self._complain(f"events cannot be written: {error}")

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    @staticmethod
    def _complain(text: str) -> None:
        with contextlib.suppress(OSError):  # the log is on the same full disk
            print(text, file=sys.stderr, flush=True)
