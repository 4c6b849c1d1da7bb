"""Real worker processes: requests, signals, several ranks, failures."""

from __future__ import annotations

import itertools
import signal
import time

import msgspec
import pytest

from engine.contract.events import Checkpoint, CommandDone, Ended, Started, State, Train, Validation
from engine.contract.rundir import Command, RunDirectory
from engine.training.loop import train

ENDLESS = ("budget.max_steps=1000000", "optim.schedule=constant", "optim.lr=1e-3")


@pytest.fixture
def ask(events_of, until):
    """``ask(run, action)``: write a request and wait for its acknowledgement."""
    numbers = itertools.count()

    def request(run: RunDirectory, action: str) -> CommandDone:
        command = Command(id=f"c{next(numbers)}", action=action, time=time.time())
        with run.commands.open("ab") as file:
            file.write(msgspec.json.encode(command) + b"\n")
        until(lambda: any(event.id == command.id for event in events_of(run, CommandDone)))
        (done,) = [event for event in events_of(run, CommandDone) if event.id == command.id]
        assert done.action == action
        return done

    return request


def states(events_of, run: RunDirectory) -> list[str]:
    return [event.state for event in events_of(run, State)]


@pytest.mark.slow
def test_one_process_obeys_requests(make_run, events_of, start_worker, until, ask):
    run = make_run(*ENDLESS)
    old = Command(id="of-yesterday", action="stop", time=time.time() - 86_400)
    run.commands.write_bytes(msgspec.json.encode(old) + b"\nnot a request\n")
    process = start_worker(run)
    until(lambda: events_of(run, Train))

    refused = ask(run, "resume")
    assert (refused.accepted, refused.message) == (False, "the training is not paused")
    assert not ask(run, "dance").accepted

    assert ask(run, "checkpoint").accepted
    (saved,) = events_of(run, Checkpoint)
    assert saved.name == f"step-{saved.step}"

    assert ask(run, "pause").accepted
    assert states(events_of, run) == ["running", "pausing", "paused"]
    paused_at = events_of(run, Train)[-1]
    assert events_of(run, Checkpoint)[-1].step == paused_at.step
    begin = time.monotonic()
    assert not ask(run, "pause").accepted
    assert ask(run, "checkpoint").accepted
    until(lambda: time.monotonic() > begin + 2)
    assert events_of(run, Train)[-1].step == paused_at.step
    assert ask(run, "resume").accepted
    until(lambda: events_of(run, Train)[-1].step > paused_at.step)
    pause_seconds = time.monotonic() - begin
    went_on = next(event for event in events_of(run, Train) if event.step > paused_at.step)
    assert went_on.elapsed_seconds - paused_at.elapsed_seconds < pause_seconds - 1.5
    assert went_on.step_seconds < 1.5

    # Two requests at once are both answered; the second comes too late or is granted with the first.
    assert ask(run, "stop").accepted
    assert process.wait(60) == 0
    assert states(events_of, run)[-1] == "stopping"
    (ended,) = events_of(run, Ended)
    assert ended.reason == "stopped"
    assert events_of(run, Checkpoint)[-1].step == events_of(run, Train)[-1].step
    assert [event.step for event in events_of(run, Validation)] == [0]  # a stop does not wait for an evaluation
    assert "of-yesterday" not in {event.id for event in events_of(run, CommandDone)}


@pytest.mark.slow
def test_two_ranks_train_as_one_process_and_end_together(
    make_run, events_of, open_session, start_worker, until, ask, change_spec
):
    single = make_run(*ENDLESS, "budget.max_steps=60", accumulation=2)
    train(open_session(single))

    double = make_run(*ENDLESS, ranks=2)
    launcher = start_worker(double, ranks=2)
    until(lambda: any(event.step >= 50 for event in events_of(double, Train)))
    assert ask(double, "pause").accepted
    assert ask(double, "resume").accepted
    launcher.send_signal(signal.SIGTERM)  # torchrun hands it on to the workers
    launcher.wait(60)

    assert states(events_of, double) == ["running", "pausing", "paused", "running", "stopping"]
    assert events_of(double, State)[-1].reason == "asked by a signal"
    assert events_of(double, Ended)[0].reason == "stopped"
    assert events_of(double, Checkpoint)[-1].step == events_of(double, Train)[-1].step
    (started,) = events_of(double, Started)
    assert (started.world_size, started.micro_batch, started.batch_size) == (2, 4, 8)
    alone = {event.step: event.loss for event in events_of(single, Train) if event.step <= 50}
    together = {event.step: event.loss for event in events_of(double, Train) if event.step <= 50}
    assert together == pytest.approx(alone, abs=1e-4)
    assert alone[50] < alone[1] - 0.5
    one, two = (events_of(run, Validation)[0] for run in (single, double))
    assert two.loss == pytest.approx(one.loss, abs=1e-6)
    assert two.tokens == one.tokens

    # One process goes on where the two were stopped.
    last = events_of(double, Train)[-1].step
    change_spec(double, [f"budget.max_steps={last + 5}"])
    train(open_session(double))
    assert [event.step for event in events_of(double, Train)][-5:] == list(range(last + 1, last + 6))
    assert events_of(double, Train)[-1].samples == (last + 5) * 8


@pytest.mark.slow
def test_a_failure_whose_report_has_no_place_still_ends_the_worker(make_run, start_worker):
    run = make_run(ranks=2)
    run.errors.write_bytes(b"a file where a folder belongs")
    assert start_worker(run).wait(60) == 1
    log = run.log.read_text()
    assert "the report of this failure cannot be written" in log
    assert "During handling of the above exception" not in log


@pytest.mark.slow
def test_a_failure_leaves_its_reason_and_a_non_zero_exit(make_run, start_worker):
    run = make_run(ranks=2)
    process = start_worker(run)  # alone, though the layout wants two
    assert process.wait(60) == 1
    report = msgspec.json.decode((run.errors / "rank0.json").read_bytes())
    assert report["title"] == "The layout needs another number of workers"
    assert "wants 2, and 1 was started" in report["message"]
    assert "--nproc-per-node 2" in report["hint"]
    assert (report["rank"], report["exception"]) == (0, "RunError")
    assert "Traceback" in report["traceback"]
    assert report["title"] in run.log.read_text()
    assert (run.errors / "rank0.json").stat().st_mode & 0o777 == 0o600
