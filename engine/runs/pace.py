"""How fast a training is, and how long it will take: one rule for the listings and for the screens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from engine.contract.events import Started, State
from engine.contract.states import ENDED

RECENT = 20
"""Logged intervals over which the present speed is taken."""
WINDOW = 200
"""Logged intervals over which the time left is foretold: long enough to have evaluations and checkpoints in it."""


class Logged(NamedTuple):
    """The newest Train events as columns, oldest first: some ``WINDOW`` of them, none from before a resume."""

    tokens: Sequence[float]
    """Trained since the start of the run when the interval ended."""
    elapsed: Sequence[float]
    """Seconds since the start of the run, over evaluations and checkpoints."""
    rates: Sequence[float]
    """Tokens per second within the interval, evaluations and checkpoints left out; NaN where unknown."""


def newest_state(supervisor: State | None, rank0: State | None) -> State | None:
    """The newer of the newest words of both; the supervisor's word on how its newest attempt ended is final."""
    if supervisor is None or rank0 is None or supervisor.state in ENDED:
        return supervisor or rank0
    return max(supervisor, rank0, key=lambda state: state.time)


def recent_speed(logged: Logged) -> float | None:
    """Tokens per second of training over the last ``RECENT`` intervals: all their tokens by all their seconds."""
    tokens, rates = logged.tokens[-RECENT - 1 :], logged.rates[-RECENT - 1 :]
    if len(rates) == 1:
        return rates[0] if rates[0] > 0 else None
    total = seconds = 0.0
    for before, after, rate in zip(tokens, tokens[1:], rates[1:], strict=False):
        if after > before and rate > 0 and math.isfinite(rate):
            total += after - before
            seconds += (after - before) / rate
    return total / seconds if seconds else None


def eta_seconds(started: Started | None, step: int | None, logged: Logged) -> float | None:
    """Seconds until the first of the limits is met; None where there is no measurement or no limit.

    ``step`` is that of the newest event. Goes by what all took lately, with evaluations and checkpoints.
    """
    if started is None or not logged.tokens:
        return None
    left = []
    tokens, elapsed = logged.tokens[-WINDOW - 1 :], logged.elapsed[-WINDOW - 1 :]
    gained, spent = tokens[-1] - tokens[0], elapsed[-1] - elapsed[0]
    pace = gained / spent if gained > 0 and spent > 0 else recent_speed(logged)
    if pace and started.max_steps is not None:
        left.append((started.max_steps - (step or 0)) * started.batch_size * started.sequence_length / pace)
    if pace and started.max_tokens is not None:
        left.append((started.max_tokens - tokens[-1]) / pace)
    if started.max_seconds is not None:
        left.append(started.max_seconds - elapsed[-1])
    return max(0.0, min(left)) if left else None
