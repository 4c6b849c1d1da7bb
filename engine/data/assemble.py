"""Parts become the training and the validation file, split by document (:mod:`engine.data.split`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt

from engine.contract.errors import DataError
from engine.data.pack import DOCUMENT, Part, TokenType, part_files
from engine.data.prepared import TRAIN, VALIDATION
from engine.data.split import choose_held_out

_BLOCK = 4 << 20
_ROWS = 1 << 16
Rows = npt.NDArray[np.void]


class Joined(msgspec.Struct, frozen=True, kw_only=True):
    """What came out of joining the parts."""

    documents: int
    train_tokens: int
    train_bytes: int
    validation_tokens: int
    validation_bytes: int
    unknown: int
    """Tokens that are the unknown token."""


def assemble(
    parts_folder: Path,
    parts: Sequence[Part],
    folder: Path,
    fraction: float,
    limit: int | None,
    dtype: TokenType,
    unknown_id: int | None,
    progress: Callable[[int], None],
) -> Joined:
    """Write ``train.bin`` and ``validation.bin`` into ``folder`` from the first ``limit`` documents of the parts.

    ``progress`` gets the bytes of each part when it is joined. Raises DataError where fewer than two different
    documents exist.
    """
    held_out = choose_held_out(lambda: _hashes(parts_folder, parts, limit), fraction)
    sums = np.zeros((2, 2), dtype=np.int64)  # train, validation x tokens, bytes
    documents = unknown = 0
    with (folder / TRAIN).open("wb") as train, (folder / VALIDATION).open("wb") as validation:
        targets = (train, validation)
        for index, part in enumerate(parts):
            with part_files(parts_folder, index)[0].open("rb") as tokens:
                for rows in _rows(parts_folder, index, limit, documents):
                    held = held_out.mask(rows["hash"])
                    for side, length in _runs(held, rows["tokens"]):
                        unknown += _copy(tokens, targets[side], length, dtype, unknown_id)
                    for side in (0, 1):
                        chosen = rows[held == bool(side)]
                        sums[side] += (int(chosen["tokens"].sum()), int(chosen["bytes"].sum()))
                    documents += len(rows)
            progress(part.bytes)
        for file in targets:
            file.flush()
            os.fsync(file.fileno())
    return Joined(
        documents=documents,
        train_tokens=int(sums[0, 0]),
        train_bytes=int(sums[0, 1]),
        validation_tokens=int(sums[1, 0]),
        validation_bytes=int(sums[1, 1]),
        unknown=unknown,
    )


def _rows(folder: Path, index: int, limit: int | None, before: int) -> Iterator[Rows]:
    """The documents of a part in blocks, as far as ``limit`` allows after the ``before`` earlier ones."""
    with part_files(folder, index)[1].open("rb") as file:
        while block := file.read(_ROWS * DOCUMENT.itemsize):
            rows = np.frombuffer(block, dtype=DOCUMENT)
            if limit is not None:
                rows = rows[: max(0, limit - before)]
            if len(rows) == 0:
                return
            yield rows
            before += len(rows)


def _runs(held: npt.NDArray[np.bool_], tokens: npt.NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    """Consecutive documents of one side as ``(side, tokens)``."""
    starts = np.concatenate([[0], np.flatnonzero(held[1:] != held[:-1]) + 1])
    for start, length in zip(starts.tolist(), np.add.reduceat(tokens, starts).tolist(), strict=True):
        yield int(held[start]), length


def _copy(source: BinaryIO, target: BinaryIO, length: int, dtype: TokenType, unknown_id: int | None) -> int:
    """Append ``length`` tokens of ``source`` to ``target``; how many of them are ``unknown_id``."""
    size, unknown = length * dtype.itemsize, 0
    while size > 0:
        block = source.read(min(_BLOCK, size))
        if not block or len(block) % dtype.itemsize:
            raise DataError("A part of the prepared data is cut short", str(source.name), "prepare the data again")
        target.write(block)
        size -= len(block)
        if unknown_id is not None:
            unknown += int(np.count_nonzero(np.frombuffer(block, dtype=dtype) == unknown_id))
    return unknown


def _hashes(folder: Path, parts: Sequence[Part], limit: int | None) -> Iterator[npt.NDArray[np.uint64]]:
    seen = 0
    for index in range(len(parts)):
        for rows in _rows(folder, index, limit, seen):
            seen += len(rows)
            yield rows["hash"]
