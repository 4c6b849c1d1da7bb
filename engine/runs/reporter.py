"""What the supervisor says, kept until it can be written."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from engine.contract.events import Event
from engine.contract.journal import Journal

PATIENCE_SECONDS = 60.0


class Reporter:
    """Writes events in order. While the disk is full they wait: a training is not ended for a line of text."""

    def __init__(self, path: Path) -> None:
        self._journal = Journal(path)
        self._waiting: list[Event] = []

    def say(self, *events: Event) -> None:
        self._waiting += events
        self.flush()

    def flush(self) -> bool:
        """Write what waits; False if some of it still does."""
        while self._waiting:
            try:
                self._journal.write(self._waiting[0])
            except OSError as error:
                print(f"the supervisor cannot write its events: {error}", file=sys.stderr, flush=True)
                return False
            self._waiting.pop(0)
        return True

    def close(self) -> None:
        """Write what waits, for at most a minute."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.flush() and time.monotonic() < deadline:
            time.sleep(1.0)
        self._journal.close()
