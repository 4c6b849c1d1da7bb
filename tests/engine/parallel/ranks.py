"""What the ranks of the tests do: whole trainings of the real engine, one after the other in the same processes."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from engine.contract.events import Train, Validation
from engine.contract.journal import EventReader
from engine.contract.rundir import RunDirectory
from engine.training import setup
from engine.training.inputs import read_inputs
from engine.training.loop import train
from engine.training.reporter import Reporter
from engine.training.trained import load_trained


class Trained(NamedTuple):
    """What one rank saw of a training."""

    data_rank: int
    samples: list[list[int]]
    """Global indices of what it read, by step."""
    seconds: float


def train_all(runs: Sequence[Path]) -> list[Trained]:
    """Train each run, or go on with it, as this rank."""
    return [_train_one(RunDirectory(path)) for path in runs]


def _train_one(run: RunDirectory) -> Trained:
    begin = time.monotonic()
    reporter = Reporter(run, int(os.environ.get("RANK", "0")))
    session = setup.open_session(read_inputs(run), reporter, None, time.time())
    samples: list[list[int]] = []
    read = session.batches.step

    def recorded(first: int):  # type: ignore[no-untyped-def]
        samples.append(session.batches.indices(first))
        return read(first)

    session.batches.step = recorded  # type: ignore[method-assign]
    setup.tell_start(session, setup.resume(session))
    train(session)
    reporter.close()
    data_rank = 0 if session.mesh is None else session.mesh.data_rank
    return Trained(data_rank, samples, time.monotonic() - begin)


def losses_of(run: RunDirectory) -> dict[int, float]:
    """Training loss by step; of a step that was done twice, the later one."""
    events = EventReader(run.events_of("rank0")).read_all()
    return {event.step: event.loss for event in events if isinstance(event, Train)}  # type: ignore[misc]


def validations_of(run: RunDirectory) -> dict[int, float]:
    events = EventReader(run.events_of("rank0")).read_all()
    return {event.step: event.loss for event in events if isinstance(event, Validation)}  # type: ignore[misc]


def weights_of(run: RunDirectory) -> dict[str, Tensor]:
    """The model in the newest checkpoint, read by a single process."""
    model = load_trained(run).model
    return {name: value.detach() for name, value in model.named_parameters()}
