"""Whole trainings in one process."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Iterator

import msgspec
import pytest
import torch

from engine.contract.errors import CheckpointError
from engine.contract.events import (
    Checkpoint,
    CheckpointRemoved,
    CommandDone,
    Ended,
    Notice,
    Sample,
    Started,
    State,
    Train,
    Validation,
)
from engine.contract.rundir import Command, complete_checkpoints
from engine.training.failure import TrainingError
from engine.training.loop import train
from engine.training.saving import save


def losses(events_of, run) -> dict[int, float]:
    return {event.step: event.loss for event in events_of(run, Train)}


def test_a_training_tells_everything(make_run, events_of, open_session):
    run = make_run(
        "budget.max_steps=40", "evaluation.every_steps=10", "evaluation.sample_tokens=12", "checkpoint.every_steps=10",
        "optim.lr=3e-3",
    )  # fmt: skip

    assert train(open_session(run)) == "max_steps"

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
    assert all(event.grad_norm > 0 for event in trained)
    validations = events_of(run, Validation)
    assert [event.step for event in validations] == [0, 10, 20, 30, 40]
    assert validations[-1].loss < validations[0].loss - 1
    assert validations[-1].perplexity == pytest.approx(math.exp(validations[-1].loss))
    # One byte is one token here.
    assert validations[-1].bits_per_byte == pytest.approx(validations[-1].loss / math.log(2))
    assert [event.step for event in events_of(run, Sample)] == [0, 10, 20, 30, 40]
    assert all(event.text for event in events_of(run, Sample))
    assert [event.name for event in events_of(run, Checkpoint)] == ["step-10", "step-20", "step-30", "step-40"]
    assert [event.name for event in events_of(run, CheckpointRemoved)] == ["step-10", "step-20"]
    assert [folder.name for folder in complete_checkpoints(run)] == ["step-30", "step-40"]
    (ended,) = events_of(run, Ended)
    assert (ended.reason, ended.tokens) == ("max_steps", 40 * 8 * 32)


def test_accumulated_micro_batches_train_as_one_batch(make_run, events_of, open_session):
    whole, parts = make_run("budget.max_steps=20"), make_run("budget.max_steps=20", accumulation=4)
    train(open_session(whole))
    train(open_session(parts))
    assert losses(events_of, parts) == pytest.approx(losses(events_of, whole), abs=1e-5)


def test_tokens_per_second_leaves_out_evaluations_and_checkpoints(make_run, events_of, open_session):
    run = make_run("budget.max_steps=12", "evaluation.every_steps=1", "evaluation.max_batches=20", "log_every_steps=4")
    train(open_session(run))
    trained, (ended,) = events_of(run, Train), events_of(run, Ended)
    assert [event.step for event in trained] == [4, 8, 12]
    training_seconds = sum(event.step_seconds * 4 for event in trained)
    evaluating_seconds = sum(event.seconds for event in events_of(run, Validation))
    assert training_seconds + evaluating_seconds < ended.elapsed_seconds * 1.05
    assert evaluating_seconds > training_seconds  # twenty batches after every one
    for event in trained:
        assert event.tokens_per_second == pytest.approx(8 * 32 / event.step_seconds)


@pytest.mark.parametrize(
    ("limit", "reason", "steps"),
    [
        ("budget.max_tokens=1025", "max_tokens", 5),
        # The text has some 2,900 samples of 32 tokens: a thousandth of it is one batch of 8.
        ("budget.max_epochs=0.001", "max_epochs", 1),
    ],
)
def test_a_training_ends_by_tokens_or_epochs(make_run, events_of, open_session, limit, reason, steps):
    run = make_run("budget.max_steps=none", limit)
    assert train(open_session(run)) == reason
    assert events_of(run, Started)[0].max_steps == steps
    assert events_of(run, Train)[-1].step == steps


def test_a_training_ends_by_time_with_its_rate_decayed(make_run, events_of, open_session):
    run = make_run("budget.max_steps=none", "budget.max_seconds=1.5", "optim.warmup_steps=0")
    assert train(open_session(run)) == "max_seconds"
    (started,), trained, (ended,) = events_of(run, Started), events_of(run, Train), events_of(run, Ended)
    assert (started.max_steps, started.max_seconds) == (None, 1.5)
    assert 1.5 <= ended.elapsed_seconds < 5
    assert trained[0].lr > 0.9e-3
    assert trained[-1].lr < 0.3e-3


@pytest.mark.parametrize(
    "overrides",
    [
        ("layout.precision=bf16-mixed",),
        ("model.preset=lstm-1m", "optim.name=adam"),
        ("model.preset=gpt2-1m", "model.kv_heads=2", "model.dropout=0.1", "optim.label_smoothing=0.1"),
        ("optim.name=sgd", "optim.lr=0.2", "optim.nesterov=true", "optim.clip_norm=none", "log_every_steps=10"),
        ("optim.schedule=wsd", "optim.weight_decay=0"),
    ],
    ids=["bf16", "lstm", "gpt2-dropout-smoothing", "sgd-unclipped", "wsd"],
)
def test_every_way_to_train_learns(make_run, events_of, open_session, overrides):
    run = make_run("budget.max_steps=60", "optim.lr=5e-3", "evaluation.sample_tokens=4", *overrides)
    train(open_session(run))
    first, *_, last = events_of(run, Validation)
    assert last.loss < first.loss - 1
    assert events_of(run, Train)[-1].grad_norm > 0
    assert not events_of(run, Notice)


def test_a_training_that_diverges_fails_with_advice_and_keeps_the_good_checkpoint(make_run, events_of, open_session):
    run = make_run("budget.max_steps=3")
    train(open_session(run))
    run.spec.write_text(
        run.spec.read_text().replace("max_steps = 3", "max_steps = 30").replace("lr = 0.001", "lr = 1e30")
    )
    session = open_session(run)
    with pytest.raises(TrainingError) as caught:
        train(session)
    assert caught.value.title == "The training diverged"
    assert "optim.lr" in caught.value.hint
    assert [folder.name for folder in complete_checkpoints(run)] == ["step-3"]


@pytest.fixture
def small_files() -> Iterator[int]:
    """No file may grow beyond this many bytes: writing more fails, as on a full disk."""
    limit = 100_000
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_costs_the_checkpoint_and_not_the_training(make_run, events_of, open_session, small_files):
    run = make_run("budget.max_steps=8", "checkpoint.every_steps=4")
    with pytest.raises(CheckpointError, match="ended at step 8"):
        train(open_session(run))
    assert not events_of(run, Ended), "a model that is not saved is no success"
    assert events_of(run, Train)[-1].step == 8
    notices = events_of(run, Notice)
    assert [notice.level for notice in notices] == ["error", "error"]
    for step, notice in zip((4, 8), notices, strict=True):
        assert f"The checkpoint of step {step} was not written" in notice.message
    assert "was not written" in notices[0].message
    assert "Make room" in notices[0].message
    assert not complete_checkpoints(run)
    assert list(run.checkpoints.iterdir()) == []


@pytest.mark.parametrize(("action", "accepted"), [("checkpoint", False), ("stop", True)])
def test_a_request_is_told_when_nothing_was_saved(make_run, events_of, open_session, small_files, action, accepted):
    run = make_run("budget.max_steps=3")
    session = open_session(run)
    asked = Command(id="now", action=action, time=time.time() + 1)
    run.commands.write_bytes(msgspec.json.encode(asked) + b"\n")
    with pytest.raises(CheckpointError, match="could not be saved"):
        train(session)
    (done,) = events_of(run, CommandDone)
    assert done.accepted is accepted
    assert "not written" in done.message
    assert session.saved_step is None


def test_a_checkpoint_that_cannot_be_deleted_stops_nothing(make_run, events_of, open_session):
    run = make_run("budget.max_steps=2", "checkpoint.every_steps=1", "checkpoint.keep_last=1")
    session = open_session(run)
    stubborn = run.checkpoints / f"step-{'0' * 245}"  # its name leaves no room for what it is hidden as
    stubborn.mkdir(parents=True)
    (stubborn / "manifest.json").touch()
    assert train(session) == "max_steps"
    assert [event.name for event in events_of(run, CheckpointRemoved)] == ["step-1"]
    assert all("could not be deleted" in event.message for event in events_of(run, Notice))
    assert stubborn.is_dir()


def test_a_requested_checkpoint_comes_with_a_sample(make_run, events_of, open_session):
    run = make_run("budget.max_steps=3", "evaluation.sample_tokens=4")
    session = open_session(run)
    asked = Command(id="now", action="checkpoint", time=time.time() + 1)
    run.commands.write_bytes(msgspec.json.encode(asked) + b"\n")
    train(session)
    assert [event.step for event in events_of(run, Checkpoint)] == [1, 3]
    assert [event.step for event in events_of(run, Sample)] == [0, 1, 3]


def test_a_step_that_was_not_saved_is_tried_again(make_run, events_of, open_session, small_files):
    session = open_session(make_run())
    assert not save(session)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert save(session)
    assert [event.name for event in events_of(session.inputs.run, Checkpoint)] == ["step-0"]


def test_a_checkpoint_of_another_model_or_optimiser_is_refused_by_name(make_run, open_session, change_spec):
    run = make_run("budget.max_steps=2")
    train(open_session(run))
    before = run.spec.read_text()
    change_spec(run, ["model.layers=3"])
    with pytest.raises(CheckpointError, match="layers = 2, and the spec says 3"):
        open_session(run)
    run.spec.write_text(before)
    change_spec(run, ["optim.name=sgd"])
    with pytest.raises(CheckpointError, match="trained with adamw, and the spec says sgd"):
        open_session(run)
    assert [folder.name for folder in complete_checkpoints(run)] == ["step-2"]


def test_the_best_checkpoint_is_kept_beside_the_last(make_run, events_of, open_session):
    # A rate that ruins the model after a good start: the best checkpoint is an early one.
    run = make_run(
        "budget.max_steps=24", "checkpoint.every_steps=4", "checkpoint.keep_last=1", "optim.lr=50",
        "optim.schedule=constant", "optim.warmup_steps=24",
    )  # fmt: skip
    train(open_session(run))
    scores = {event.step: event.loss for event in events_of(run, Validation) if event.step}
    best = min(scores, key=lambda step: scores[step])
    assert best < 24
    assert [folder.name for folder in complete_checkpoints(run)] == [f"step-{best}", "step-24"]
    assert [event.step for event in events_of(run, Checkpoint) if event.best][-1] == best


def test_threads_of_a_worker_are_those_of_the_layout(make_run, open_session):
    open_session(make_run())
    assert torch.get_num_threads() == 1


def test_a_stop_does_not_wait_for_an_evaluation(make_run, events_of, open_session):
    run = make_run("evaluation.max_batches=none")
    session = open_session(run)
    stop = Command(id="now", action="stop", time=time.time() + 1)
    run.commands.write_bytes(msgspec.json.encode(stop) + b"\n")
    assert train(session) == "stopped"
    assert not events_of(run, Validation)
    assert [event.step for event in events_of(run, Checkpoint)] == [1]
    (done,) = events_of(run, CommandDone)
    assert (done.id, done.accepted) == ("now", True)
