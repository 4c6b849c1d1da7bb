"""Whole trainings in one process."""

from __future__ import annotations

import math
import time

import pytest

from engine.contract.events import Checkpoint, CheckpointRemoved, Ended, Sample, Started, State, Train, Validation
from engine.contract.rundir import complete_checkpoints
from engine.training.inputs import read_inputs
from engine.training.loop import train
from engine.training.reporter import Reporter
from engine.training.session import Session
from engine.training.setup import open_session, resume, tell_start


def open_fresh(run) -> Session:
    session = open_session(read_inputs(run), Reporter(run, 0), None, time.time())
    tell_start(session, resume(session))
    return session


def test_a_training_tells_everything(make_run, events_of):
    run = make_run(
        "budget.max_steps=40", "evaluation.every_steps=10", "evaluation.sample_tokens=12", "checkpoint.every_steps=10",
        "optim.lr=3e-3",
    )  # fmt: skip

    assert train(open_fresh(run)) == "max_steps"

    (started,) = events_of(run, Started)
    assert started.step == 0
    assert started.max_steps == 40
    assert (started.batch_size, started.micro_batch, started.world_size) == (8, 8, 1)
    assert [event.state for event in events_of(run, State)] == ["running"]
    trained = events_of(run, Train)
    assert [event.step for event in trained] == list(range(1, 41))
    assert trained[-1].samples == 40 * 8
    assert trained[-1].tokens == 40 * 8 * 32
    assert trained[0].loss == pytest.approx(math.log(257), rel=0.05)
    assert trained[-1].loss < trained[0].loss - 1
    validations = events_of(run, Validation)
    assert [event.step for event in validations] == [0, 10, 20, 30, 40]
    assert validations[-1].loss < validations[0].loss - 1
    assert validations[-1].perplexity == pytest.approx(math.exp(validations[-1].loss))
    # One byte is one token here.
    assert validations[-1].bits_per_byte == pytest.approx(validations[-1].loss / math.log(2))
    assert [event.step for event in events_of(run, Sample)] == [0, 10, 20, 30, 40]
    assert [event.name for event in events_of(run, Checkpoint)] == ["step-10", "step-20", "step-30", "step-40"]
    assert [event.name for event in events_of(run, CheckpointRemoved)] == ["step-10", "step-20"]
    assert [folder.name for folder in complete_checkpoints(run)] == ["step-30", "step-40"]
    (ended,) = events_of(run, Ended)
    assert (ended.reason, ended.tokens) == ("max_steps", 40 * 8 * 32)
