"""From global sample indices to the tensors of one rank."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.contract.layout import Layout
from engine.data.batches import Batches


class StepBatches:
    """The micro-batches of one rank.

    A step that begins with global sample ``first`` uses samples ``first`` to ``first + batch_size - 1``, however
    many ranks there are: micro-batch after micro-batch, and in each one data rank after the other. Reading is a slice
    of a memory map, so it is done when it is needed, without a loader process.
    """

    def __init__(
        self, batches: Batches, layout: Layout, data_rank: int, device: torch.device, positions: Tensor | None = None
    ) -> None:
        """``positions`` of each sequence that this rank holds, (seq / cp,); None: all."""
        sizes = layout.micro_batches or (layout.micro_batch,) * layout.data_ranks
        self._batches = batches
        self._stride = layout.samples_per_micro_batch
        self._offset = sum(sizes[:data_rank])
        self._size = sizes[data_rank]
        self._count = layout.accumulation
        self._device = device
        self._positions = positions
        self.samples_per_epoch: int = batches.samples_per_epoch
        self.seconds = 0.0
        """Spent reading since the start."""

    def indices(self, first: int) -> list[int]:
        """Global indices of the samples that this rank uses in the step which begins with ``first``."""
        starts = (first + number * self._stride + self._offset for number in range(self._count))
        return [start + row for start in starts for row in range(self._size)]

    def step(self, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """``(tokens, targets)`` of each micro-batch, (micro_batch, seq / cp), on the device; targets are one ahead."""
        for number in range(self._count):
            begin = time.perf_counter()
            start = first + number * self._stride + self._offset
            pair = self.split(self._batches.batch(range(start, start + self._size)))
            self.seconds += time.perf_counter() - begin
            yield pair

    def split(self, samples: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Tokens and targets from rows (n, seq + 1), this rank's positions of them."""
        rows = torch.from_numpy(samples)
        if self._device.type == "cuda":
            rows = rows.pin_memory().to(self._device, non_blocking=True)
        else:
            rows = rows.to(self._device)
        tokens, targets = rows[:, :-1], rows[:, 1:]
        if self._positions is None:
            return tokens, targets
        return tokens[:, self._positions], targets[:, self._positions]
