"""What is minimised, and what is reported."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def token_loss(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """``(objective, cross_entropy)``: means over all tokens, in nats; the second is without gradient.

    ``logits`` (batch, seq, vocabulary), ``targets`` (batch, seq). With label smoothing (Szegedy et al. 2016,
    section 7) the objective is no cross-entropy of the text any more, so the plain one is what is reported:
    training and validation loss stay comparable.
    """
    scores = logits.flatten(0, 1).float()
    wanted = targets.flatten()
    if label_smoothing == 0:
        objective = functional.cross_entropy(scores, wanted)
        return objective, objective.detach()
    log_probabilities = functional.log_softmax(scores, dim=-1)
    cross_entropy = functional.nll_loss(log_probabilities, wanted)
    uniform = -log_probabilities.mean()
    return (1 - label_smoothing) * cross_entropy + label_smoothing * uniform, cross_entropy.detach()
