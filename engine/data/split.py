"""Which documents are held out for validation: those whose hashes lie in one range.

A document's hash is of its text, so the choice depends on nothing else than the texts, and equal texts never stand on
both sides. The range begins with the smallest hash and holds the asked-for share of the documents, at least one;
where a text that occurs very often would make it much larger, it lies beyond that text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from engine.contract.errors import DataError

Hashes = npt.NDArray[np.uint64]
ReadHashes = Callable[[], Iterator[Hashes]]
"""Gives the hashes of all documents in blocks, as often as it is called: there may be more than fit into memory."""

ATTEMPTS = 16
"""Frequent texts that are stepped over before the best range so far is taken."""


class Held(NamedTuple):
    """Hashes from ``first`` to ``last``, both included, are held out: ``documents`` of them."""

    first: int
    last: int
    documents: int

    def mask(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """Which of ``hashes`` are held out."""
        return (hashes >= np.uint64(self.first)) & (hashes <= np.uint64(self.last))


def choose_held_out(read: ReadHashes, fraction: float) -> Held:
    """The range for ``fraction`` of the documents. Raises DataError where fewer than two different ones exist."""
    count, smallest, largest = _census(read)
    if smallest == largest:
        many = f"{count} equal documents" if count > 1 else "one document" if count else "no document"
        raise DataError(
            "Too few documents to hold some out",
            f"the data has {many}; training and validation need a different one each",
            "give more text; records become documents, and a text file is cut into pieces of 2 KiB and more",
        )
    wanted = min(max(1, round(count * fraction)), count - 1)
    found: list[Held] = []
    first: int | None = smallest
    for _ in range(ATTEMPTS):
        if first is None:
            break
        last = _nth_from(read, first, wanted)
        if last is None:  # fewer than wanted are left: all of them
            last = largest
        with_last, without_last = _between(read, first, last), _between(read, first, last - 1)
        found += [Held(first, end, held) for end, held in ((last, with_last), (last - 1, without_last)) if held]
        if with_last <= 2 * wanted:
            break
        first = min((int(rest.min()) for hashes in read() if len(rest := hashes[hashes > last])), default=None)
    possible = [held for held in found if held.documents < count]
    return min(possible, key=lambda held: max(held.documents / wanted, wanted / held.documents))


def _census(read: ReadHashes) -> tuple[int, int, int]:
    """Number, smallest and largest of all hashes."""
    count, smallest, largest = 0, 0, 0
    for hashes in read():
        low, high = int(hashes.min()), int(hashes.max())
        smallest, largest = (min(smallest, low), max(largest, high)) if count else (low, high)
        count += len(hashes)
    return count, smallest, largest


def _between(read: ReadHashes, first: int, last: int) -> int:
    held = Held(first, last, 0)
    return sum(int(np.count_nonzero(held.mask(hashes))) for hashes in read()) if last >= first else 0


def _nth_from(read: ReadHashes, first: int, number: int) -> int | None:
    """The ``number``-th smallest hash that is at least ``first``; None if there are fewer.

    Found by two counts of leading bits, so that no list of all is needed.
    """
    counts = np.zeros(1 << 16, dtype=np.int64)
    for hashes in read():
        chosen = hashes[hashes >= np.uint64(first)]
        counts += np.bincount((chosen >> np.uint64(48)).astype(np.int64), minlength=1 << 16)
    below = np.cumsum(counts)
    if below[-1] < number:
        return None
    bucket = int(np.searchsorted(below, number))
    rank = number - (int(below[bucket - 1]) if bucket else 0)
    inside = [
        hashes[(hashes >> np.uint64(48) == bucket) & (hashes >= np.uint64(first))] for hashes in read()
    ]  # fmt: skip
    return int(np.sort(np.concatenate(inside))[rank - 1])
