"""A keyed permutation of ``0 .. n-1`` that is computed, not stored.

A balanced Feistel network permutes the smallest domain of ``4^k`` numbers that holds ``n``; numbers that land
outside are sent through again until they land inside (cycle walking, Black & Rogaway 2002, section 3.2), which
keeps it a permutation. The order of an epoch of any size thus takes no memory and is the same everywhere.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

ROUNDS = 6
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)

Indices = npt.NDArray[np.uint64]


class Permutation:
    """A permutation of ``0 .. size-1`` decided by ``seed`` and ``epoch``."""

    def __init__(self, size: int, seed: int, epoch: int) -> None:
        assert size > 0
        self.size = size
        half = max(1, -(-(size - 1).bit_length() // 2))
        self._half = np.uint64(half)
        self._mask = np.uint64((1 << half) - 1)
        digest = hashlib.blake2b(f"traindeck order {seed} {epoch}".encode(), digest_size=8 * ROUNDS).digest()
        self._keys = np.frombuffer(digest, dtype="<u8").astype(np.uint64)

    def apply(self, indices: npt.ArrayLike) -> Indices:
        """Where the permutation sends each of ``indices`` (any shape, each below ``size``)."""
        result = self._once(np.asarray(indices, dtype=np.uint64))
        outside = result >= self.size
        while outside.any():
            result = np.where(outside, self._once(result), result)
            outside = result >= self.size
        return result

    def _once(self, values: Indices) -> Indices:
        left, right = values >> self._half, values & self._mask
        with np.errstate(over="ignore"):
            for key in self._keys:
                left, right = right, left ^ (_mix(right + key) & self._mask)
        return (left << self._half) | right


def _mix(values: Indices) -> Indices:
    """The finaliser of SplitMix64 (Steele et al. 2014)."""
    values = values + _GOLDEN
    values = (values ^ (values >> np.uint64(30))) * _MIX_1
    values = (values ^ (values >> np.uint64(27))) * _MIX_2
    return values ^ (values >> np.uint64(31))
