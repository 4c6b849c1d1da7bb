"""What counts as training time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Clock:
    """Training time: pauses do not count, and evaluations and checkpoints do not count as trained time."""

    def __init__(self, elapsed_seconds: float = 0.0, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._start = now() - elapsed_seconds
        self._aside = 0.0
        self._mark = now()

    def elapsed(self) -> float:
        """Seconds since the start of the run over all resumes, without pauses."""
        return self._now() - self._start

    @contextmanager
    def aside(self) -> Iterator[None]:
        """For what is not training but part of the run: it does not lower the tokens per second."""
        begin = self._now()
        yield
        self._aside += self._now() - begin

    @contextmanager
    def paused(self) -> Iterator[None]:
        """For a pause: as if the time had stood still."""
        begin = self._now()
        yield
        gone = self._now() - begin
        self._start += gone
        self._mark += gone

    def interval(self) -> float:
        """Seconds of training alone since the last call."""
        now = self._now()
        seconds = now - self._mark - self._aside
        self._mark, self._aside = now, 0.0
        return max(seconds, 1e-9)
