"""What the training of a run has measured, from the event file of its rank 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from engine.contract.events import Started, Train, Validation
from engine.contract.rundir import RunDirectory
from engine.runs.pace import WINDOW, Logged
from engine.runs.rare import read_rare
from engine.runs.scan import backwards


class Measured(NamedTuple):
    """What rank 0 has said. After a resume from a checkpoint, what it had said of later steps does not count."""

    started: Started | None
    validations: Sequence[Validation]
    train: Train | None
    logged: Logged
    step: int | None


def read_measured(run: RunDirectory) -> Measured:
    """Rare events are searched for, new ones read from the end: a long file costs a fraction of a second."""
    path = run.events_of("rank0")
    rare = read_rare(path)
    step: int | None = None
    limit: int | None = None
    recent: list[Train] = []
    for event in backwards(path):
        step = event.step if step is None else step
        if isinstance(event, Started):
            if recent or not event.step:
                break
            limit = event.step if limit is None else min(limit, event.step)
        elif isinstance(event, Train) and (limit is None or (event.step or 0) <= limit):
            recent.append(event)
            if limit is not None or len(recent) > WINDOW:
                break
    logged = recent[::-1] if limit is None else []  # how fast it was before a resume says little
    columns = Logged(
        tokens=[event.tokens for event in logged],
        elapsed=[event.elapsed_seconds for event in logged],
        rates=[event.tokens_per_second for event in logged],
    )
    return Measured(rare.started, rare.validations, recent[0] if recent else None, columns, step)
