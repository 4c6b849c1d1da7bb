"""How sources are cut into shards: pieces of work for one process, each read independently of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from engine.contract.source import SourceKind

SHARD_BYTES = 1 << 20
"""Of source text in the smallest shards. A shard is what one process works on, and what survives a kill."""
ENOUGH_SHARDS = 64
"""For most machines' cores: sources that give more get shards of up to ``FULL_SHARD_BYTES`` first."""
FULL_SHARD_BYTES = 4 << 20
MOST_SHARDS = 4096
"""Very large sources get larger shards rather than more of them."""
LARGEST_RECORD = 64 << 20
"""Bytes of one line or record of a structured file: more is a file that is not what its name says."""
_WINDOW = 64 << 10


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """A range of one file: bytes of text and JSON lines, row groups of Parquet, batches of Arrow."""

    path: str
    start: int
    end: int
    bytes: int
    """How large it is, for balance and progress."""


class Shard(msgspec.Struct, frozen=True, kw_only=True):
    """Slices that one process turns into one part. ``index`` orders the parts."""

    index: int
    slices: tuple[Slice, ...]

    @property
    def bytes(self) -> int:
        return sum(item.bytes for item in self.slices)


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """How slices become documents; the same for all shards of a source."""

    kind: SourceKind
    text_field: str | None = None
    cut_bytes: int = 64 << 10
    """Text files larger than this are cut into documents of at most 64 KiB."""
    lenient: bool = False
    """Leave out files that are not UTF-8 instead of refusing them."""


def shard_bytes(total: int) -> int:
    """Source bytes of one shard for a source of ``total`` bytes."""
    usual = min(max(SHARD_BYTES, total // ENOUGH_SHARDS), FULL_SHARD_BYTES)
    return max(usual, -(-total // MOST_SHARDS))


def group(slices: Iterable[Slice], size: int) -> tuple[Shard, ...]:
    """Consecutive slices gathered into shards of about ``size`` bytes."""
    groups: list[list[Slice]] = []
    held = size
    for item in slices:
        if held + item.bytes > size:
            groups.append([])
            held = 0
        groups[-1].append(item)
        held += item.bytes
    return tuple(Shard(index=index, slices=tuple(members)) for index, members in enumerate(groups))


def byte_slices(files: Iterable[Path], size: int, boundary: Callable[[BinaryIO, int], int]) -> Iterator[Slice]:
    """Files as slices of at most about ``size`` bytes; ``boundary`` moves a cut to a place where one may cut."""
    for path in files:
        total = path.stat().st_size
        start = 0
        with path.open("rb") as file:
            while start < total:
                end = total if total - start <= size else min(total, boundary(file, start + size))
                yield Slice(path=str(path), start=start, end=end, bytes=end - start)
                start = end


def text_boundary(file: BinaryIO, offset: int) -> int:
    """The best place to cut text soon after ``offset``: the end of a document, paragraph, line, or character."""
    file.seek(offset)
    window = file.read(_WINDOW)
    for mark in (b"<|endoftext|>", b"\n\n", b"\n", b" "):
        place = window.find(mark)
        if place >= 0:
            return offset + place + len(mark)
    return offset + next((place for place, byte in enumerate(window) if byte & 0xC0 != 0x80), len(window))


def line_boundary(file: BinaryIO, offset: int) -> int:
    """The start of the first line after ``offset``, or the end of the file."""
    file.seek(offset)
    while block := file.read(_WINDOW):
        place = block.find(b"\n")
        if place >= 0:
            return file.tell() - len(block) + place + 1
    return file.tell()
