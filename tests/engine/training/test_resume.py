"""Trainings that are killed, damaged, and continued."""

from __future__ import annotations

import random
import signal

import pytest

from engine.contract.errors import CheckpointError
from engine.contract.events import Notice, Sample, Started, Train, Validation
from engine.contract.rundir import complete_checkpoints
from engine.training.loop import train

KINDS = (
    # Dropout draws random numbers, evaluations and samples come in between: none of it may show.
    "model.preset=gpt2-1m", "model.kv_heads=2", "model.dropout=0.1", "checkpoint.every_steps=10",
    "evaluation.every_steps=15", "evaluation.sample_tokens=8", "optim.schedule=constant", "optim.warmup_steps=30",
)  # fmt: skip


def numbers(events_of, run, after: int = 0) -> dict[int, tuple]:
    """Step -> what was measured, of the last time that the step was trained."""
    return {
        event.step: (event.loss, event.grad_norm, event.lr, event.samples, event.tokens)
        for event in events_of(run, Train)
        if event.step > after
    }


@pytest.mark.slow
def test_killed_at_a_random_step_it_goes_on_bit_for_bit(
    make_run, events_of, open_session, start_worker, until, change_spec
):
    killed = make_run(*KINDS, "budget.max_steps=1000000")
    at = random.randint(11, 70)
    print(f"killed at step {at} or soon after")  # pytest shows it with a failure
    process = start_worker(killed)
    until(lambda: any(event.step >= at for event in events_of(killed, Train)))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    newest = complete_checkpoints(killed)[-1]

    end = int(newest.name.removeprefix("step-")) + 55
    change_spec(killed, [f"budget.max_steps={end}"])
    assert train(open_session(killed)) == "max_steps"
    whole = make_run(*KINDS, f"budget.max_steps={end}")
    train(open_session(whole))

    first, second = events_of(killed, Started)
    assert (first.step, first.resumed_from) == (0, None)
    assert second.resumed_from == newest.name == f"step-{second.step}"
    expected = numbers(events_of, whole, after=second.step)
    assert len(expected) == 55
    assert numbers(events_of, killed, after=second.step) == expected
    ends = [[event.loss for event in events_of(run, Validation)][-1] for run in (whole, killed)]
    assert ends[0] == ends[1]
    assert events_of(killed, Sample)[-1].text == events_of(whole, Sample)[-1].text


@pytest.mark.parametrize("name", ["model.safetensors", "optimiser.safetensors", "training.json", "manifest.json"])
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(make_run, events_of, open_session, change_spec, name):
    run = make_run("budget.max_steps=6", "checkpoint.every_steps=3")
    train(open_session(run))
    damaged = run.checkpoints / "step-6" / name
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 0x10  # one bit
    damaged.write_bytes(content if name != "manifest.json" else content[: len(content) // 2])
    change_spec(run, ["budget.max_steps=8", "checkpoint.keep_last=1"])

    train(open_session(run))

    assert events_of(run, Started)[-1].resumed_from == "step-3"
    (notice,) = events_of(run, Notice)
    assert notice.level == "error"
    assert name in notice.message
    assert "step-6 is damaged" in notice.message
    assert "continuing from step-3" in notice.message
    # The good ones are kept by their number, and the damaged one is not counted, but not thrown away either.
    assert [folder.name for folder in complete_checkpoints(run)] == ["step-8"]
    assert any(path.name.startswith("damaged-step-6") for path in run.checkpoints.iterdir())
    assert [event.step for event in events_of(run, Train)] == [1, 2, 3, 4, 5, 6, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("name", ["training.json", "manifest.json"])
def test_bytes_that_are_no_text_are_damage_too(make_run, events_of, open_session, name):
    run = make_run("budget.max_steps=2", "checkpoint.every_steps=1")
    train(open_session(run))
    (run.checkpoints / "step-2" / name).write_bytes(b'{"step": "\xff"}')
    open_session(run)
    assert events_of(run, Started)[-1].resumed_from == "step-1"
    assert "step-2 is damaged" in events_of(run, Notice)[0].message


def test_with_no_sound_checkpoint_left_it_starts_nothing_and_throws_nothing_away(make_run, events_of, open_session):
    run = make_run("budget.max_steps=2")
    train(open_session(run))
    (run.checkpoints / "step-2" / "optimiser.safetensors").unlink()
    for _ in range(2):
        with pytest.raises(CheckpointError, match="No checkpoint of this run can be used") as caught:
            train(open_session(run))
        assert "optimiser.safetensors" in caught.value.message
        assert "traindeck train" in caught.value.hint
    assert len(events_of(run, Started)) == 1
    assert (run.checkpoints / "step-2" / "model.safetensors").is_file()


def test_a_checkpoint_that_lost_its_manifest_is_damaged_and_not_passed_over(make_run, events_of, open_session):
    run = make_run("budget.max_steps=2", "checkpoint.every_steps=1")
    train(open_session(run))
    (run.checkpoints / "step-2" / "manifest.json").unlink()
    open_session(run)
    assert events_of(run, Started)[-1].resumed_from == "step-1"
    (notice,) = events_of(run, Notice)
    assert "step-2 is damaged: manifest.json" in notice.message
    (run.checkpoints / "step-1" / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="No checkpoint of this run can be used"):
        open_session(run)
    assert (run.checkpoints / "step-1" / "model.safetensors").is_file()


def test_what_a_kill_left_half_written_is_cleared(make_run, open_session):
    run = make_run("budget.max_steps=1")
    partial = run.checkpoints / ".step-1.partial-0123abcd"
    partial.mkdir(parents=True)
    (partial / "model.safetensors").write_bytes(b"half")
    train(open_session(run))
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-1"]


def test_a_finished_run_with_a_larger_budget_goes_on(make_run, events_of, open_session, change_spec):
    run = make_run("budget.max_steps=3", "optim.schedule=constant")
    longer = make_run("budget.max_steps=6", "optim.schedule=constant")
    train(open_session(run))
    change_spec(run, ["budget.max_steps=6"])
    train(open_session(run))
    train(open_session(longer))
    assert numbers(events_of, run) == numbers(events_of, longer)


def test_a_run_that_is_done_ends_again_at_once(make_run, events_of, open_session):
    run = make_run("budget.max_steps=2")
    train(open_session(run))
    assert train(open_session(run)) == "max_steps"
    assert [event.step for event in events_of(run, Train)] == [1, 2]


def test_an_interrupted_time_budget_is_not_given_anew(make_run, events_of, open_session):
    run = make_run("budget.max_steps=none", "budget.max_seconds=0.5")
    train(open_session(run))
    steps = events_of(run, Train)[-1].step
    assert train(open_session(run)) == "max_seconds"
    assert events_of(run, Train)[-1].step == steps
