"""Requests of people and of the system, as the workers see them."""

from __future__ import annotations

import os
import signal
from collections import deque
from types import FrameType

from engine.contract.events import CommandDone, Launched
from engine.contract.journal import EventReader, LineReader
from engine.contract.records import decode_record
from engine.contract.rundir import Command, RunDirectory

LAUNCH_SECONDS = 600.0
"""No worker takes longer from its launch to its first line of code."""


class StopFlag:
    """Set by SIGTERM and SIGINT, and when the launcher of this worker is gone. A handler does nothing else.

    A detached run has its own session, so that the ctrl-c of a terminal never gets here; who starts
    torchrun by hand and presses ctrl-c wants the training to end, and it ends with a checkpoint.
    """

    def __init__(self, *, watch_parent: bool) -> None:
        self._signalled = False
        self._parent = os.getppid() if watch_parent else None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True

    def reason(self) -> str | None:
        """Why this process has to stop; None if it has not."""
        if self._signalled:
            return "asked by a signal"
        if self._parent is not None and os.getppid() != self._parent:
            return "the process that watched over it is gone"
        return None


class Inbox:
    """The requests in ``commands.jsonl`` that concern this start of the run, one at a time.

    Those are the ones made since the supervisor launched the workers (since ``started`` without one) that nobody
    acknowledged. Looks at the file's size alone until it changes.
    """

    def __init__(self, run: RunDirectory, started: float) -> None:
        self._run = run
        self._since = min([started, *_last_launch(run, started)])
        self._lines = LineReader(run.commands)
        self._size = 0
        self._waiting: deque[Command] = deque()
        self._fill()
        if self._waiting:
            done = _acknowledged(run)
            self._waiting = deque(command for command in self._waiting if command.id not in done)

    def next(self) -> Command | None:
        """The oldest request not yet taken; None if there is none."""
        if not self._waiting:
            self._fill()
        return self._waiting.popleft() if self._waiting else None

    def has(self, action: str) -> bool:
        """Whether a request of that kind waits."""
        self._fill()
        return any(command.action == action for command in self._waiting)

    def _fill(self) -> None:
        try:
            size = self._run.commands.stat().st_size
        except OSError:
            return  # nobody asked for anything yet
        if size == self._size:
            return
        self._size = size
        for line in self._lines.read():
            command = decode_record(line, Command)  # what is no request needs no answer
            if command is not None and command.time >= self._since:
                self._waiting.append(command)


def _last_launch(run: RunDirectory, started: float) -> list[float]:
    """When the supervisor launched the workers that this process is one of; empty without a supervisor."""
    launches = [
        event.time
        for event in EventReader(run.events_of("supervisor")).read_all()
        if isinstance(event, Launched) and event.what == "training" and event.time <= started
    ]
    # A launch of long ago belongs to an earlier start: this worker was started by hand.
    return [time for time in launches[-1:] if started - time < LAUNCH_SECONDS]


def _acknowledged(run: RunDirectory) -> set[str]:
    return {
        event.id
        for source in ("supervisor", "rank0")
        for event in EventReader(run.events_of(source)).read_all()
        if isinstance(event, CommandDone)
    }
