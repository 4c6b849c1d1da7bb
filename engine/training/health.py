"""Noticing that a training has gone wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

from engine.parallel.dtensors import shard
from engine.training.failure import TrainingError

LARGEST_STREAK = 3
"""So many logged losses in a row that are not finite end a training."""
ADVICE = "Resume from the last checkpoint with a lower optim.lr or more warm-up; optim.clip_norm and fp32 help too"


@torch.no_grad()
def weights_are_finite(parts: Sequence[nn.Module]) -> bool:
    """Whether no parameter, or piece of one on this rank, holds an infinity or NaN; one pass over the weights."""
    return all(bool(torch.isfinite(shard(parameter)).all()) for part in parts for parameter in part.parameters())


class LossWatch:
    """Looks at each logged loss. All ranks see the same losses, and must be told the same of the weights."""

    def __init__(self) -> None:
        self._streak = 0

    def look(self, loss: float, all_finite: Callable[[], bool]) -> str | None:
        """What to tell about ``loss``; None when it is finite.

        ``all_finite`` says whether the weights on all ranks are finite; it is asked on every rank or on none.
        Raises TrainingError when no step can mend it: the weights are not finite, or it stays so.
        """
        if math.isfinite(loss):
            self._streak = 0
            return None
        self._streak += 1
        if not all_finite():
            raise TrainingError("The training diverged", f"The loss is {loss}, and so are weights of the model", ADVICE)
        if self._streak >= LARGEST_STREAK:
            raise TrainingError("The training diverged", f"The loss was {loss} {self._streak} times in a row", ADVICE)
        return f"the loss is {loss}"
