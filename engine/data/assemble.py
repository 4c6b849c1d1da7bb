"""Parts become the training and the validation file.

Split by document: the share ``validation_fraction`` of the documents with the smallest hashes is held out, at least
one. A document's hash is of its text, so the choice depends on nothing else than the texts, and equal texts never
stand on both sides.
"""

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
    threshold = _threshold(parts_folder, parts, fraction, limit)
    sums = np.zeros((2, 2), dtype=np.int64)  # train, validation x tokens, bytes
    documents = unknown = 0
    with (folder / TRAIN).open("wb") as train, (folder / VALIDATION).open("wb") as validation:
        targets = (train, validation)
        for index, part in enumerate(parts):
            with part_files(parts_folder, index)[0].open("rb") as tokens:
                for rows in _rows(parts_folder, index, limit, documents):
                    held_out = rows["hash"] <= threshold
                    for side, length in _runs(held_out, rows["tokens"]):
                        unknown += _copy(tokens, targets[side], length, dtype, unknown_id)
                    for side in (0, 1):
                        chosen = rows[held_out == bool(side)]
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


def _runs(held_out: npt.NDArray[np.bool_], tokens: npt.NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    """Consecutive documents of one side as ``(side, tokens)``."""
    starts = np.concatenate([[0], np.flatnonzero(held_out[1:] != held_out[:-1]) + 1])
    for start, length in zip(starts.tolist(), np.add.reduceat(tokens, starts).tolist(), strict=True):
        yield int(held_out[start]), length


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


def _threshold(folder: Path, parts: Sequence[Part], fraction: float, limit: int | None) -> np.uint64:
    """The largest hash that is held out; found by two counts of leading bits, so that no list of all is needed."""
    count, counts, smallest, largest = 0, np.zeros(1 << 16, dtype=np.int64), None, None
    for hashes in _hashes(folder, parts, limit):
        counts += np.bincount((hashes >> np.uint64(48)).astype(np.int64), minlength=1 << 16)
        count += len(hashes)
        smallest = hashes.min() if smallest is None else min(smallest, hashes.min())
        largest = hashes.max() if largest is None else max(largest, hashes.max())
    if smallest is None or largest is None or smallest == largest:
        many = f"{count} equal documents" if count > 1 else "one document" if count else "no document"
        raise DataError(
            "Too few documents to hold some out",
            f"the data has {many}; training and validation need a different one each",
            "give more text; records become documents, and a text file is cut into pieces of 2 KiB and more",
        )
    wanted = min(max(1, round(count * fraction)), count - 1)
    below = np.cumsum(counts)
    bucket = int(np.searchsorted(below, wanted))
    rank = wanted - (int(below[bucket - 1]) if bucket else 0)
    inside = [hashes[hashes >> np.uint64(48) == bucket] for hashes in _hashes(folder, parts, limit)]
    chosen = np.sort(np.concatenate(inside))[rank - 1]
    if chosen == largest:  # equal texts pulled everything to the held-out side: keep the last ones for training
        chosen = max(
            int(hashes[hashes < largest].max(initial=0)) for hashes in _hashes(folder, parts, limit)
        )  # fmt: skip
    return np.uint64(chosen)


def _hashes(folder: Path, parts: Sequence[Part], limit: int | None) -> Iterator[npt.NDArray[np.uint64]]:
    seen = 0
    for index in range(len(parts)):
        for rows in _rows(folder, index, limit, seen):
            seen += len(rows)
            yield rows["hash"]
