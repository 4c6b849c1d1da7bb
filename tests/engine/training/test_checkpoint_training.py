"""Checkpoints as a training makes them: beside its steps, and with all that it needs to go on."""

from __future__ import annotations

import time

import msgspec

from engine.contract.events import Checkpoint, CommandDone, Train
from engine.contract.journal import EventReader
from engine.contract.rundir import Command, complete_checkpoints
from engine.training.checkpoint import read_manifest
from engine.training.loop import train


def test_a_request_is_answered_when_its_checkpoint_is_on_disk(make_run, open_session):
    run = make_run("budget.max_steps=30")
    session = open_session(run)
    asked = Command(id="now", action="checkpoint", time=time.time() + 1)
    run.commands.write_bytes(msgspec.json.encode(asked) + b"\n")
    train(session)
    events = EventReader(run.events_of("rank0")).read_all()
    kinds = [event for event in events if isinstance(event, Checkpoint | CommandDone)]
    saved, done, last = kinds
    assert isinstance(saved, Checkpoint)
    assert (saved.name, saved.step) == ("step-1", 1), "by its own step, whenever it was finished"
    assert isinstance(done, CommandDone)
    assert (done.id, done.accepted) == ("now", True)
    assert isinstance(last, Checkpoint)
    assert last.name == "step-30"
    assert session.awaiting == []


def test_a_checkpoint_at_every_step_is_each_of_its_own_step(make_run, open_session, events_of):
    run = make_run("budget.max_steps=5", "checkpoint.every_steps=1", "checkpoint.keep_last=9")
    train(open_session(run))
    assert [(event.name, event.step) for event in events_of(run, Checkpoint)] == [(f"step-{n}", n) for n in range(1, 6)]
    for folder in complete_checkpoints(run):
        manifest = read_manifest(folder)
        assert (folder.name, manifest.samples) == (f"step-{manifest.step}", manifest.step * 8)


def test_the_scale_of_the_loss_is_gone_on_with(make_run, open_session, events_of, change_spec):
    half = ("layout.precision=fp16-mixed", "optim.schedule=constant")
    run, whole = make_run(*half, "budget.max_steps=3"), make_run(*half, "budget.max_steps=6")
    train(open_session(run))
    manifest = read_manifest(run.checkpoints / "step-3")
    assert (manifest.loss_scale, manifest.loss_scale_age) == (65536.0, 3)
    change_spec(run, ["budget.max_steps=6"])
    session = open_session(run)
    assert session.scaler.state_dict()["_growth_tracker"] == 3
    train(session)
    train(open_session(whole))
    assert read_manifest(run.checkpoints / "step-6").loss_scale_age == 6
    losses = [[(event.step, event.loss) for event in events_of(one, Train)] for one in (run, whole)]
    assert losses[0] == losses[1]
