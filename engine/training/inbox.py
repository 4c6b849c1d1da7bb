"""Requests of people, as rank 0 sees them."""

from __future__ import annotations

from collections import deque

from engine.contract.events import CommandDone, Launched
from engine.contract.journal import EventReader, LineReader
from engine.contract.records import decode_record
from engine.contract.rundir import Command, RunDirectory

LAUNCH_SECONDS = 600.0
"""No worker takes longer from its launch to its first line of code."""


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
