"""Batches as a pure function of ``(seed, global sample index)``.

Nothing is remembered between calls: a resumed run, or one on another number of devices, asks for the next
global indices and gets exactly the samples that the uninterrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from engine.data.permutation import Permutation

Tokens = npt.NDArray[np.uint16] | npt.NDArray[np.uint32] | npt.NDArray[np.uint16 | np.uint32]
Samples = npt.NDArray[np.int64]


def sample_count(tokens: int, sequence_length: int) -> int:
    """How many samples of ``sequence_length`` inputs and one more target fit into ``tokens``."""
    return max(0, (tokens - 1) // sequence_length)


class Batches:
    """Samples of packed training tokens in a shuffled order, a new one each epoch.

    Sample ``k`` of the text is ``tokens[k * sequence_length : (k + 1) * sequence_length + 1]``: inputs and
    targets overlap by one token, so that every token but the first is a target once per epoch.
    Raises ValueError if ``tokens`` holds no sample (``engine.data.prepare`` checks that with a clear message).
    """

    def __init__(self, tokens: Tokens, sequence_length: int, seed: int) -> None:
        self.sequence_length = sequence_length
        self.samples_per_epoch = sample_count(len(tokens), sequence_length)
        if self.samples_per_epoch == 0:
            raise ValueError(f"{len(tokens)} tokens hold no sample of {sequence_length} + 1")
        # A plain array over the same mapping: slicing a memmap object costs microseconds more each time.
        self._tokens = np.asarray(tokens)
        self._seed = seed
        self._orders: dict[int, Permutation] = {}

    def sample(self, index: int) -> Samples:
        """Sample number ``index`` (0 and up, over all epochs): ``(sequence_length + 1,)`` token ids."""
        batch: Samples = self.batch([index])[0]
        return batch

    def batch(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> Samples:
        """The samples with these global indices: ``(n, sequence_length + 1)`` token ids."""
        wanted = np.asarray(indices, dtype=np.int64)
        if len(wanted) and int(wanted.min()) < 0:
            raise ValueError("a sample index is never negative")
        places = self.places(wanted)
        result = np.empty((len(wanted), self.sequence_length + 1), dtype=np.int64)
        for row, place in enumerate(places.tolist()):
            start = place * self.sequence_length
            result[row] = self._tokens[start : start + self.sequence_length + 1]
        return result

    def places(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Where in the text, counted in samples, each global index lies."""
        epochs, within = np.divmod(indices, self.samples_per_epoch)
        result = np.empty(len(indices), dtype=np.int64)
        for epoch in np.unique(epochs).tolist():
            chosen = epochs == epoch
            result[chosen] = self._order(epoch).apply(within[chosen])
        return result

    def _order(self, epoch: int) -> Permutation:
        if epoch not in self._orders:
            if len(self._orders) >= 4:  # a batch spans two epochs at most in practice
                self._orders.clear()
            self._orders[epoch] = Permutation(self.samples_per_epoch, self._seed, epoch)
        return self._orders[epoch]


def validation_batches(
    tokens: Tokens, sequence_length: int, micro_batch: int, max_samples: int | None = None
) -> Iterator[Samples]:
    """Batches ``(n <= micro_batch, sequence_length + 1)`` of held-out text, the same ones every time.

    When ``max_samples`` leaves some out, the samples are spread evenly over the whole text.
    """
    text = np.asarray(tokens)
    available = sample_count(len(text), sequence_length)
    wanted = available if max_samples is None else min(available, max_samples)
    for first in range(0, wanted, micro_batch):
        numbers = range(first, min(first + micro_batch, wanted))
        starts = [number * available // wanted * sequence_length for number in numbers]
        yield np.stack([text[start : start + sequence_length + 1] for start in starts]).astype(np.int64)
