"""A node's two streams. Neither makes it wait: a network that hangs must not keep it from ending its workers."""

from __future__ import annotations

import os
import queue
import threading
import time
from typing import IO

import msgspec

from engine.contract.records import UNREADABLE
from engine.runs.wire import SILENT_SECONDS, Begin, Go, to_node

FLUSH_SECONDS = 5.0
"""How long the last words may take."""
WAITING_WORDS = 10_000
"""What is kept for a supervisor that does not read; more is dropped."""


class Inbox:
    """What the supervisor has said, read by a thread."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._heard = time.monotonic()
        self._ended = False
        self.go = False
        """Whether to train."""

    def begin(self) -> Begin | None:
        """The first message, waited for; None where the input is something else."""
        try:
            word = to_node.decode(self._stream.readline())
        except UNREADABLE:
            return None
        if not isinstance(word, Begin):
            return None
        self._heard = time.monotonic()
        threading.Thread(target=self._read, daemon=True).start()
        return word

    @property
    def ended(self) -> bool:
        """Whether to end: so it was said, or whoever could say it is gone."""
        return self._ended or time.monotonic() - self._heard > SILENT_SECONDS

    def end(self) -> None:
        self._ended = True

    def _read(self) -> None:
        for line in self._stream:
            self._heard = time.monotonic()
            if not line.strip():
                continue
            try:
                word = to_node.decode(line)
            except UNREADABLE:
                continue  # of a newer supervisor: the preflight has compared the versions
            if isinstance(word, Go):
                self.go = True
            elif not isinstance(word, Begin):
                self._ended = True
        self._ended = True


class Outbox:
    """What the supervisor is told, written by a thread."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._words: queue.Queue[bytes | None] = queue.Queue(WAITING_WORDS)
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def say(self, word: msgspec.Struct) -> None:
        if not self._words.full():
            self._words.put(msgspec.json.encode(word) + b"\n")

    def close(self) -> None:
        """Write what waits, for a few seconds at most."""
        if not self._words.full():
            self._words.put(None)
            self._thread.join(FLUSH_SECONDS)

    def _write(self) -> None:
        while (line := self._words.get()) is not None:
            try:
                while line:
                    line = line[os.write(self._file, line) :]
            except OSError:
                return  # the connection is gone, which the end of the input tells as well
