"""Reading the files of a run as they grow. No Textual import: the feeds of the app and the plain commands share it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import msgspec

from engine.contract.errors import TraindeckError
from engine.contract.events import AnyEvent, Codec, Train, Unknown
from engine.contract.journal import LineReader
from engine.contract.layout import Layout
from engine.contract.plan import read_plan
from engine.contract.records import UNREADABLE, read_record
from engine.contract.rundir import RunDirectory, RunInfo
from engine.contract.spec import RunSpec
from engine.contract.specfile import read_spec
from tui.blocks import TrainBlock

TELEMETRY_TAIL_BYTES = 512 << 10
"""Of the device samples only the last minutes are shown: older ones are not read."""
TELEMETRY_HEAD_BYTES = 64 << 10
"""The first lines say which devices there are."""
LOG_TAIL_BYTES = 256 << 10
LONGEST_LOG_LINE = 4096
Part = tuple[str, AnyEvent | TrainBlock]
"""The file that it comes from (``rank0``, ``supervisor``, ``telemetry/HOST``) and what was read."""


@dataclass(frozen=True, slots=True)
class RunHead:
    """What a run directory says once: who it is, what was asked, what runs. What cannot be read is None."""

    info: RunInfo | None
    spec: RunSpec | None
    layout: Layout | None


def read_head(run: RunDirectory) -> RunHead:
    """The small files of ``run``; damage in one does not hide the others."""
    try:
        spec = read_spec(run.spec)
    except TraindeckError:
        spec = None
    plan = read_plan(run)
    return RunHead(info=read_record(run.info, RunInfo), spec=spec, layout=plan.layout if plan else None)


class RunFollower:
    """Everything new in the event and telemetry files of a run since the last call.

    A call reads at most about 4 MB of each file, so that a screen can show what there is of a long run
    while the rest is read: call again until nothing comes. Raises OSError where files cannot be read.
    """

    _lines: ClassVar[msgspec.json.Decoder[AnyEvent]] = msgspec.json.Decoder(AnyEvent)

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self.skipped = 0
        """Lines of kinds that this version does not know, and damaged ones."""
        self.more = False
        """Whether the last read stopped before the end of a file."""
        self._readers: dict[Path, tuple[str, LineReader]] = {}

    def read(self) -> list[tuple[str, AnyEvent]]:
        """Events one by one, with their source, file after file."""
        return [(source, event) for source, lines in self._new_lines() for event in self._decode(lines)]

    def read_blocks(self) -> list[Part]:
        """The same with runs of training measurements compacted to columns: for long files."""
        return [part for source, lines in self._new_lines() for part in _compact(source, self._decode(lines))]

    def _new_lines(self) -> Iterable[tuple[str, list[bytes]]]:
        self._find_files()
        self.more = False
        for source, reader in self._readers.values():
            before = reader.offset
            if lines := reader.read():
                self.more = self.more or reader.offset - before > reader.BLOCK // 2
                yield source, lines

    def _find_files(self) -> None:
        for folder, prefix in ((self.run.events, ""), (self.run.telemetry, "telemetry/")):
            try:
                names = sorted(os.listdir(folder))
            except (FileNotFoundError, NotADirectoryError):
                continue
            for name in names:
                path = folder / name
                if name.endswith(".jsonl") and path not in self._readers:
                    reader = _HeadAndTail(path) if prefix else LineReader(path)
                    self._readers[path] = (prefix + name.removesuffix(".jsonl"), reader)

    def _decode(self, lines: list[bytes]) -> list[AnyEvent]:
        try:
            return self._lines.decode_lines(b"\n".join(lines))
        except UNREADABLE:
            events = []
            for line in lines:  # one of them is of a newer kind, or damaged: find out which
                event = Codec.decode(line)
                if isinstance(event, Unknown):
                    self.skipped += 1
                else:
                    events.append(event)
            return events


class _HeadAndTail(LineReader):
    """Reads the beginning of a long file, then its end, then what is added; the middle is left out."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._begun = False

    def read(self) -> list[bytes]:
        if self._begun:
            return super().read()
        size = _size(self.path)
        if size is None:
            return []
        self._begun = True
        if size <= TELEMETRY_HEAD_BYTES + TELEMETRY_TAIL_BYTES:
            return super().read()
        with self.path.open("rb") as file:
            head = file.read(TELEMETRY_HEAD_BYTES)
            file.seek(size - TELEMETRY_TAIL_BYTES)
            file.readline()  # the rest of a line that began before
            self.offset = file.tell()
        first = [line for line in head[: head.rfind(b"\n") + 1].split(b"\n") if line.strip()]
        return first + super().read()


def _compact(source: str, events: list[AnyEvent]) -> list[Part]:
    """Train events that follow one another as blocks with ascending steps; telemetry only as much as is shown."""
    parts: list[Part] = []
    stretch: list[Train] = []
    for event in events:
        if type(event) is Train:
            if stretch and (event.step or 0) <= (stretch[-1].step or 0):
                parts += _block(source, stretch)
                stretch = []
            stretch.append(event)
        else:
            if stretch:
                parts += _block(source, stretch)
                stretch = []
            parts.append((source, event))
    return parts + (_block(source, stretch) if stretch else [])


def _block(source: str, events: list[Train]) -> list[Part]:
    if len(events) < 4:
        return [(source, event) for event in events]
    return [(source, TrainBlock.of(events))]


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


class LogTail:
    """The last lines of a growing log, and then each new one.

    Lines are text with the encoding's errors replaced and of what a progress bar wrote over itself only the
    last; control characters are still in them. A very long line is cut.
    """

    def __init__(self, path: Path, tail_bytes: int = LOG_TAIL_BYTES) -> None:
        self.path = path
        self._tail_bytes = tail_bytes
        self._offset: int | None = None
        self._rest = b""

    def read(self) -> list[str]:
        """Lines completed since the last call; the first call gives the end of the file. A missing log has none."""
        try:
            with self.path.open("rb") as file:
                block = self._new_bytes(file.fileno())
        except (FileNotFoundError, NotADirectoryError):
            return []
        if not block:
            return []
        *complete, self._rest = (self._rest + block).split(b"\n")
        if len(self._rest) > LONGEST_LOG_LINE:  # a writer that never ends its line must not fill our memory
            complete.append(self._rest)
            self._rest = b""
        return [_log_line(line) for line in complete]

    def _new_bytes(self, descriptor: int) -> bytes:
        size = os.fstat(descriptor).st_size
        if self._offset is None or size < self._offset:
            self._offset = max(0, size - self._tail_bytes)
            self._rest = b""
            block = os.pread(descriptor, size - self._offset, self._offset)
            if self._offset:
                self._offset += len(block)
                return block[block.find(b"\n") + 1 :]
        else:
            block = os.pread(descriptor, min(size - self._offset, self._tail_bytes), self._offset)
        self._offset += len(block)
        return block


def _log_line(line: bytes) -> str:
    line = line.rstrip(b"\r")
    return line[line.rfind(b"\r") + 1 :][:LONGEST_LOG_LINE].decode("utf-8", "replace")
