"""What is minimised, and what is reported: head and loss in one, so that not all logits need exist at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

Score = Callable[[Tensor, Tensor, float], Tensor]
"""``(logits (n, vocabulary), targets (n,), label_smoothing) -> (2,)``, as :func:`cross_entropy_sums`."""


def cross_entropy_sums(logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """``(objective, cross_entropy)``, (2,) in float32: summed over all tokens, in nats; the second is without gradient.

    With label smoothing (Szegedy et al. 2016, section 7) the objective is no cross-entropy of the text any more, so
    the plain one is what is reported: training and validation loss stay comparable.
    """
    logits = logits.float()
    if label_smoothing == 0:
        objective = functional.cross_entropy(logits, targets, reduction="sum")
        return torch.stack((objective, objective.detach()))
    log_probabilities = functional.log_softmax(logits, dim=-1)
    cross_entropy = functional.nll_loss(log_probabilities, targets, reduction="sum")
    uniform = -log_probabilities.mean(dim=-1).sum()
    return torch.stack(((1 - label_smoothing) * cross_entropy + label_smoothing * uniform, cross_entropy.detach()))


class Criterion(nn.Module):
    """Sums over the tokens of what :func:`cross_entropy_sums` describes, from the last hidden stream.

    In ``chunks`` pieces, each computed again in the backward pass: the logits of one piece exist at a time, which is
    what bounds the memory of a large vocabulary. ``score`` is replaced where each rank has a part of the vocabulary.
    """

    def __init__(self) -> None:
        super().__init__()
        self.label_smoothing = 0.0
        self.chunks = 1
        self.score: Score = cross_entropy_sums

    def forward(self, head: nn.Module, x: Tensor, targets: Tensor) -> Tensor:
        """``x`` (batch, seq, hidden), ``targets`` (batch, seq); (2,)."""
        rows, wanted = x.flatten(0, 1), targets.flatten()
        if self.chunks == 1:
            return self._piece(head, rows, wanted)
        pieces = zip(rows.chunk(self.chunks), wanted.chunk(self.chunks), strict=True)
        if not torch.is_grad_enabled():
            return torch.stack([self._piece(head, *piece) for piece in pieces]).sum(dim=0)
        sums = [checkpoint(self._piece, head, *piece, use_reentrant=False) for piece in pieces]
        return torch.stack(sums).sum(dim=0)

    def _piece(self, head: nn.Module, rows: Tensor, wanted: Tensor) -> Tensor:
        return self.score(head(rows), wanted, self.label_smoothing)
