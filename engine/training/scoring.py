"""How good a model is on held-out text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from engine.data.prepared import PreparedData

Autocast = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of a model on a text; None where a number is not finite."""

    loss: float | None
    """Mean cross-entropy per token in nats."""
    perplexity: float | None
    bits_per_byte: float | None
    tokens: int

    @classmethod
    def of(cls, nats: float, tokens: int, bytes_per_token: float | None) -> Scores:
        """Scores of ``nats`` summed over ``tokens``, of text with ``bytes_per_token`` bytes each on average."""
        if tokens == 0 or not math.isfinite(nats):
            return cls(loss=None, perplexity=None, bits_per_byte=None, tokens=tokens)
        loss = nats / tokens
        return cls(
            loss=loss,
            perplexity=math.exp(loss) if loss < 700 else None,  # exp(710) is beyond a double
            bits_per_byte=loss / math.log(2) / bytes_per_token if bytes_per_token else None,
            tokens=tokens,
        )


def bytes_per_token(data: PreparedData) -> float | None:
    """Bytes of text that a validation token stands for, on average over the whole validation set."""
    manifest = data.manifest
    return manifest.validation_bytes / manifest.validation_tokens if manifest.validation_tokens else None


@torch.no_grad()
def sum_of_nats(
    model: nn.Module,
    batches: Iterable[npt.NDArray[np.int64]],
    device: torch.device,
    autocast: Autocast,
) -> tuple[float, int]:
    """``(nats, tokens)`` summed over ``batches`` of rows (n, seq + 1), dropout off; summed in double precision."""
    nats, tokens = 0.0, 0
    with evaluating([model]):
        for batch in batches:
            rows = torch.from_numpy(batch).to(device)
            with autocast():
                sums = model(rows[:, :-1], targets=rows[:, 1:])
            nats += float(sums[1])
            tokens += rows.shape[0] * (rows.shape[1] - 1)
    return nats, tokens


@contextmanager
def evaluating(parts: Sequence[nn.Module]) -> Iterator[None]:
    """Dropout off, and as it was afterwards."""
    before = [part.training for part in parts]
    for part in parts:
        part.eval()
    try:
        yield
    finally:
        for part, mode in zip(parts, before, strict=True):
            part.train(mode)
