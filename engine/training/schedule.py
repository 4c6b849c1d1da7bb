"""The learning rate as a pure function of how far the training is."""

from __future__ import annotations

import math

from engine.contract.spec import OptimSpec


def learning_rate(optim: OptimSpec, step: int, *, total_steps: int | None, time_share: float = 0.0) -> float:
    """The rate of the update that follows ``step`` completed ones.

    ``total_steps`` is where the schedule ends; its last update gets the final rate. A run that only a time limit
    ends has none (None): it decays by ``time_share``, the used share of its time, 0 to 1.
    Warm-up is linear over ``optim.warmup_steps`` updates and its first one is not zero.
    """
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    if total_steps is None:
        share = time_share
    else:
        share = (step - optim.warmup_steps) / max(1, total_steps - 1 - optim.warmup_steps)
    return optim.lr * _factor(optim, min(1.0, max(0.0, share)))


def _factor(optim: OptimSpec, share: float) -> float:
    """Rate over peak rate after ``share`` (0 to 1) of what follows the warm-up."""
    final = optim.final_lr_ratio
    match optim.schedule:
        case "constant":
            return 1.0
        case "linear":
            return 1.0 - (1.0 - final) * share
        case "cosine":  # Loshchilov and Hutter 2017, eq. 5, one cycle
            return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * share))
        case "warmup-stable-decay":  # Hu et al. 2024 (MiniCPM), section 4.2, with a linear decay
            stable = 1.0 - optim.decay_fraction
            if share <= stable or optim.decay_fraction == 0:
                return 1.0
            return 1.0 - (1.0 - final) * (share - stable) / optim.decay_fraction
