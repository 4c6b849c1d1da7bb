"""The few events of a long file that tell how a run stands: states, starts and validations.

Screens ask several times a second, so what was read of a file is remembered, and only its new lines are searched.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.contract.events import Started, State, Validation
from engine.runs.scan import Scanner


@dataclass(frozen=True)
class Rare:
    """What a file has said so far."""

    state: State | None
    """The newest."""
    started: Started | None
    """The newest."""
    validations: Sequence[Validation]
    """Without those that a resume from an earlier checkpoint took back."""


@dataclass
class _Memory:
    inode: int
    scanner: Scanner
    state: State | None = None
    started: Started | None = None
    validations: list[Validation] = field(default_factory=list)

    def read(self) -> None:
        for event in self.scanner.read():
            if isinstance(event, State):
                self.state = event
            elif isinstance(event, Validation):
                self.validations.append(event)
            elif isinstance(event, Started):
                self.started = event
                step = event.step or 0
                self.validations = [known for known in self.validations if (known.step or 0) <= step]


_memories: dict[Path, _Memory] = {}
_lock = threading.Lock()


def read_rare(path: Path) -> Rare:
    """The rare events of a file up to now. A missing file has none."""
    with _lock:
        try:
            stat = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            _memories.pop(path, None)
            return Rare(None, None, ())
        memory = _memories.get(path)
        if memory is None or memory.inode != stat.st_ino or memory.scanner.offset > stat.st_size:
            memory = _Memory(stat.st_ino, Scanner(path, "state", "started", "validation"))
            _memories[path] = memory
        memory.read()
        return Rare(memory.state, memory.started, tuple(memory.validations))


def forget(path: Path) -> None:
    """Give back the memory of a file that will not grow."""
    with _lock:
        _memories.pop(path, None)
