"""A stop that was asked for, and what is done with processes that do not end."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path
from typing import Protocol

from engine.contract.rundir import CHECKPOINT_MANIFEST, RunDirectory

GRACE_SECONDS = 60.0
"""What the workers have to end the step, write a checkpoint and leave."""
WRITING_SECONDS = 30.0
"""A checkpoint that was written to within this time is not finished, and is waited for."""
AGENT_SECONDS = 45.0
"""From SIGTERM to SIGKILL: torchrun gives its workers 30 seconds of them."""


class Process(Protocol):
    """What can be told to end."""

    def signal(self, number: signal.Signals, /) -> None: ...


class Stop:
    """First the run's own way, then SIGTERM, then SIGKILL."""

    def __init__(self, run: RunDirectory, child: Process, grace: float) -> None:
        self._run = run
        self._child = child
        self._terminate_at = time.monotonic() + grace
        self._kill_at: float | None = None

    def press(self) -> None:
        """Do what is due now."""
        now = time.monotonic()
        if self._kill_at is not None:
            if now >= self._kill_at:
                self._child.signal(signal.SIGKILL)
        elif now >= self._terminate_at and time.time() - _last_write(self._run) >= WRITING_SECONDS:
            self._child.signal(signal.SIGTERM)
            self._kill_at = now + AGENT_SECONDS


def _last_write(run: RunDirectory) -> float:
    """When a checkpoint that is not complete was written to last; 0 where there is none."""
    return max((_write_in(folder) for folder in _inside(run.checkpoints)), default=0.0)


def _write_in(folder: Path) -> float:
    if (folder / CHECKPOINT_MANIFEST).exists():
        return 0.0
    latest = 0.0
    for path in _inside(folder):
        with contextlib.suppress(FileNotFoundError):  # renamed or removed meanwhile: it was written
            latest = max(latest, path.stat().st_mtime)
    return latest


def _inside(folder: Path) -> list[Path]:
    """What is in ``folder``; nothing where it is none, or is renamed or removed meanwhile."""
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
