"""Files of one JSON object per line: one writer each, any number of readers, safe to cut anywhere."""

from __future__ import annotations

import errno
import os
import time as clock
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from engine.contract.events import SCHEMA, AnyEvent, Codec, Event, Unknown


class Journal:
    """The one writer of an event file.

    Opening an existing file ends a half-written last line (the writer before was killed) and goes on with
    the next ``seq``. Each event is one ``write``, so that a kill loses at most the event being written.
    An event that a full disk cut short may be written again: the next write ends the half line first.
    Raises OSError where the file cannot be opened or written (a full disk).
    """

    def __init__(self, path: Path, now: Callable[[], float] = clock.time) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._now = now
        self._cut = False
        """Whether the file ends in a half-written line."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._seq = self._mend()
        except OSError:
            self.close()
            raise

    def _mend(self) -> int:
        size = os.fstat(self._file).st_size
        lines = 0
        last = b"\n"
        offset = 0
        while offset < size:
            block = os.pread(self._file, 1 << 20, offset)
            if not block:
                break
            lines += block.count(b"\n")
            last = block[-1:]
            offset += len(block)
        if last != b"\n":
            os.write(self._file, b"\n")
            lines += 1
        return lines

    def write(self, event: Event) -> None:
        """Stamp ``event`` with schema, sequence number and time, and append it. Raises OSError on a full disk."""
        event.schema, event.seq, event.time = SCHEMA, self._seq, self._now()
        line = b"\n" * self._cut + Codec.encode(event)
        written = os.write(self._file, line)
        if written:
            self._cut = line[written - 1 : written] != b"\n"
        if written != len(line):
            raise OSError(errno.ENOSPC, "the disk is full: an event was cut short")
        self._seq += 1

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class LineReader:
    """Reads the new complete lines of a growing file; a half-written last line waits for its rest."""

    BLOCK = 4 << 20

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self.offset = offset
        """Bytes consumed: always the start of a line."""

    def read(self) -> list[bytes]:
        """The lines completed since the last call, at most about ``BLOCK`` bytes of them; a missing file has none.

        A file that became shorter than what was read (replaced or truncated) is read from its start again.
        """
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self.offset:
                    self.offset = 0
                file.seek(self.offset)
                block = file.read(self.BLOCK)
                while block and b"\n" not in block:  # one line longer than a block
                    more = file.read(self.BLOCK)
                    if not more:
                        return []
                    block += more
        except (FileNotFoundError, NotADirectoryError):
            return []
        complete = block[: block.rfind(b"\n") + 1]
        self.offset += len(complete)
        return [line for line in complete.split(b"\n") if line.strip()]


class EventReader:
    """Decodes the new events of a growing file; what it cannot read is skipped and counted."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self._lines = LineReader(path, offset)
        self.skipped = 0

    @property
    def offset(self) -> int:
        return self._lines.offset

    def read(self) -> list[AnyEvent]:
        """Events completed since the last call, of a block of the file; more may follow while ``offset`` moves."""
        events: list[AnyEvent] = []
        for line in self._lines.read():
            event = Codec.decode(line)
            if isinstance(event, Unknown):
                self.skipped += 1
            else:
                events.append(event)
        return events

    def read_all(self) -> list[AnyEvent]:
        """Everything up to the present end of the file."""
        events: list[AnyEvent] = []
        before = -1
        while before != self.offset:  # a block may hold nothing but what this version cannot read
            before = self.offset
            events += self.read()
        return events
