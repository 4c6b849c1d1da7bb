"""From global sample indices to the tensors of one rank."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.contract.layout import Layout
from engine.data.batches import Batches


class StepBatches:
    """The micro-batches of one rank.

    A step that begins with global sample ``first`` uses samples ``first`` to ``first + batch_size - 1``, however
    many ranks there are: micro-batch ``index`` of rank ``r`` of ``R`` starts ``(index R + r) micro_batch`` after
    it. Reading is a slice of a memory map, so it is done when it is needed, without a loader process.
    """

    def __init__(self, batches: Batches, layout: Layout, rank: int, device: torch.device) -> None:
        self._batches = batches
        self._micro_batch = layout.micro_batch
        self._ranks = layout.data_ranks
        self._rank = rank
        self._device = device
        self.samples_per_epoch: int = batches.samples_per_epoch

    def micro_batch(self, first: int, index: int) -> tuple[Tensor, Tensor]:
        """``(tokens, targets)``, each (micro_batch, seq) and on the device; targets are one token ahead."""
        start = first + (index * self._ranks + self._rank) * self._micro_batch
        rows = torch.from_numpy(self._batches.batch(range(start, start + self._micro_batch)))
        if self._device.type == "cuda":
            rows = rows.pin_memory().to(self._device, non_blocking=True)
        else:
            rows = rows.to(self._device)
        return rows[:, :-1], rows[:, 1:]
