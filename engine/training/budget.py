"""When a training is done."""

from __future__ import annotations

import math
from dataclasses import dataclass

from engine.contract.spec import BudgetSpec


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The limits of a run; it ends at whichever comes first."""

    max_steps: int | None
    max_tokens: int | None
    max_samples: int | None
    """What ``max_epochs`` comes to."""
    max_seconds: float | None
    total_steps: int | None
    """Where the limits that can be counted end the run; None when only time does."""

    @classmethod
    def of(cls, spec: BudgetSpec, *, batch_size: int, sequence_length: int, samples_per_epoch: int) -> Budget:
        """The limits for steps of ``batch_size`` sequences of ``sequence_length`` tokens."""
        max_samples = None
        if spec.max_epochs is not None:  # 0.56 epochs of 100 samples are 56, though the product is a hair more
            max_samples = max(1, math.ceil(spec.max_epochs * samples_per_epoch - 1e-6))
        ends = [
            spec.max_steps,
            None if spec.max_tokens is None else -(-spec.max_tokens // (batch_size * sequence_length)),
            None if max_samples is None else -(-max_samples // batch_size),
        ]
        return cls(
            max_steps=spec.max_steps,
            max_tokens=spec.max_tokens,
            max_samples=max_samples,
            max_seconds=spec.max_seconds,
            total_steps=min((end for end in ends if end is not None), default=None),
        )

    def reached(self, *, step: int, samples: int, tokens: int, elapsed_seconds: float) -> str | None:
        """The limit that ends the run now, as ``Ended.reason`` names it; None while there is more to do."""
        if self.max_steps is not None and step >= self.max_steps:
            return "max_steps"
        if self.max_tokens is not None and tokens >= self.max_tokens:
            return "max_tokens"
        if self.max_samples is not None and samples >= self.max_samples:
            return "max_epochs"
        if self.max_seconds is not None and elapsed_seconds >= self.max_seconds:
            return "max_seconds"
        return None

    def time_share(self, elapsed_seconds: float) -> float:
        """The used share of the time limit; 0 where there is none."""
        return 0.0 if self.max_seconds is None else min(1.0, elapsed_seconds / self.max_seconds)
