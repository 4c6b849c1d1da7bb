"""Finding a few events in long event files without decoding them all.

A journal writes ``{"kind":"...`` at the start of each line, and inside a JSON string every quotation mark is
escaped: so the kind can be searched for as bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from engine.contract.events import AnyEvent, Codec, Unknown

BLOCK = 1 << 20


def backwards(path: Path) -> Iterator[AnyEvent]:
    """The events of a file, the newest first; a half-written last line is left out. A missing file has none."""
    try:
        file = path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        return
    with file:
        position = file.seek(0, os.SEEK_END)
        step = 16 << 10
        rest = b""
        newest = True
        while position > 0:
            size = min(step, position)
            position -= size
            file.seek(position)
            block = file.read(size) + rest
            if newest:
                block = block[: block.rfind(b"\n") + 1]
                newest = not block
            first = 0 if position == 0 else block.find(b"\n") + 1
            rest = block[:first] if first else block
            if first or position == 0:
                yield from _decoded(block[first:].split(b"\n")[::-1])
            step = min(step * 4, BLOCK)


class Scanner:
    """Finds the events of some kinds in the new lines of a growing file, oldest first."""

    def __init__(self, path: Path, *kinds: str) -> None:
        self._path = path
        self._marks = [b'{"kind":"%s"' % kind.encode() for kind in kinds]
        self.offset = 0
        """Bytes searched: always the start of a line."""

    def read(self) -> Iterator[AnyEvent]:
        """The events completed since the last call. A missing file has none."""
        try:
            file = self._path.open("rb")
        except (FileNotFoundError, NotADirectoryError):
            return
        with file:
            file.seek(self.offset)
            rest = b""
            while block := file.read(BLOCK):
                block = rest + block
                end = block.rfind(b"\n") + 1
                rest = block[end:]
                self.offset += end
                starts = _starts(block, end, self._marks)
                yield from _decoded(block[start : block.index(b"\n", start)] for start in starts)


def only(path: Path, *kinds: str) -> Iterator[AnyEvent]:
    """The events of some kinds in a file, oldest first. A missing file has none."""
    return Scanner(path, *kinds).read()


def _starts(block: bytes, end: int, marks: list[bytes]) -> list[int]:
    found = []
    for mark in marks:
        at = block.find(mark, 0, end)
        while at >= 0:
            if at == 0 or block[at - 1] == 10:
                found.append(at)
            at = block.find(mark, at + 1, end)
    return sorted(found)


def _decoded(lines: Iterator[bytes] | list[bytes]) -> Iterator[AnyEvent]:
    for line in lines:
        if line:
            event = Codec.decode(line)
            if not isinstance(event, Unknown):
                yield event


def line_start(path: Path, reach: int) -> int:
    """Offset of the first line that begins within the last ``reach`` bytes of a file; 0 for a short or missing one."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - reach))
            if file.tell() == 0:
                return 0
            file.readline()
            return file.tell()
    except (FileNotFoundError, NotADirectoryError):
        return 0
