"""The parts of a worker that tell what happens."""

from __future__ import annotations

import os
import resource
import signal
import time

import msgspec
import pytest
import torch

from engine.contract.errors import RunError
from engine.contract.events import CommandDone, Launched, Notice, State
from engine.contract.journal import EventReader, Journal
from engine.contract.rundir import Command
from engine.training.clock import Clock
from engine.training.control import Act, Control
from engine.training.failure import TrainingError, describe
from engine.training.health import LARGEST_STREAK, LossWatch, weights_are_finite
from engine.training.inbox import Inbox
from engine.training.inputs import read_layout
from engine.training.loop import step_seed
from engine.training.reporter import Reporter
from engine.training.stopflag import StopFlag
from engine.training.worker import take_lock, work


class Watch:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_clock_counts_no_pauses_and_trains_in_no_evaluation():
    watch = Watch()
    clock = Clock(elapsed_seconds=50.0, now=watch)
    watch.now += 4
    with clock.aside():
        watch.now += 3
    assert clock.interval() == pytest.approx(4)
    with clock.paused():
        watch.now += 1000
    watch.now += 2
    assert clock.interval() == pytest.approx(2)
    assert clock.elapsed() == pytest.approx(50 + 4 + 3 + 2)


def test_events_lost_on_a_full_disk_are_owned_up_to(make_run, events_of):
    run = make_run()
    reporter = Reporter(run, 0)
    reporter.emit(State(state="running"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The next event does not fit as a whole: a part of its line is left.
    resource.setrlimit(resource.RLIMIT_FSIZE, (run.events_of("rank0").stat().st_size + 20, before[1]))
    try:
        reporter.emit(State(state="pausing"))
        reporter.emit(State(state="paused"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    reporter.emit(State(state="stopping"))
    assert [event.state for event in events_of(run, State)] == ["running", "stopping"]
    (notice,) = events_of(run, Notice)
    assert "2 events were lost" in notice.message
    reader = EventReader(run.events_of("rank0"))
    assert len(reader.read_all()) == 3
    assert reader.skipped == 1


def test_only_rank_0_speaks_for_the_run(make_run, events_of):
    run = make_run()
    reporter = Reporter(run, 1)
    reporter.emit(State(state="running"))
    assert not run.events_of("rank1").exists()
    reporter.notice("something")
    assert events_of(run, Notice, source="rank1")[0].message == "something"


def ask(run, identity: str, when: float, action: str = "pause") -> None:
    with run.commands.open("ab") as file:
        file.write(msgspec.json.encode(Command(id=identity, action=action, time=when)) + b"\n")


def take(inbox: Inbox) -> list[str]:
    found = []
    while command := inbox.next():
        found.append(command.id)
    return found


def test_requests_count_from_the_launch_until_they_are_answered(make_run):
    run = make_run()
    now = time.time()
    with Journal(run.events_of("supervisor"), now=lambda: now - 30) as journal:
        journal.write(Launched(what="data", pid=1, command=()))
    with Journal(run.events_of("supervisor"), now=lambda: now - 10) as journal:
        journal.write(Launched(what="training", pid=2, command=()))
        journal.write(CommandDone(id="answered", action="pause", accepted=True))
    for identity, age in (("before the launch", 20), ("while it started", 8), ("answered", 5)):
        ask(run, identity, now - age)
    inbox = Inbox(run, started=now)
    assert take(inbox) == ["while it started"]
    assert take(inbox) == []
    ask(run, "later", now + 1)
    with run.commands.open("ab") as file:
        file.write(b'{"id": "\xff", "action": "stop", "time": 9e9}\n{"id": "half a li')
    assert take(inbox) == ["later"]


def test_without_a_supervisor_requests_count_from_the_start_of_the_process(make_run):
    run = make_run()
    now = time.time()
    ask(run, "before", now - 1)
    ask(run, "after", now + 1)
    assert take(Inbox(run, started=now)) == ["after"]


def test_a_signal_sets_a_flag():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        flag = StopFlag(watch_parent=True)
        assert flag.reason() is None
        signal.raise_signal(signal.SIGTERM)
        assert flag.reason() == "asked by a signal"
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(number, handler)


def test_a_signal_outweighs_a_request(make_run, events_of, open_session):
    run = make_run()
    session = open_session(run)
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        flag = StopFlag(watch_parent=False)
        control = Control(session.ranks, flag, Inbox(run, time.time()), session.reporter)
        ask(run, "wait", time.time() + 1)
        signal.raise_signal(signal.SIGTERM)
        decision = control.decide(1.0)
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(number, handler)
    assert (decision.act, decision.reason, decision.command) == (Act.STOP, "asked by a signal", None)
    (done,) = events_of(run, CommandDone)
    assert (done.id, done.accepted, done.message) == ("wait", False, "the training stops: asked by a signal")


def test_running_out_of_memory_is_named_with_its_remedy():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    report = describe(caught.value, 3)
    assert report.title == "Out of memory"
    assert "micro_batch" in report.hint
    assert report.rank == 3
    assert describe(torch.OutOfMemoryError("CUDA out of memory."), 0).title == "Out of memory"


def test_the_failure_of_another_rank_is_told_apart():
    lost = RuntimeError("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1")
    assert describe(lost, 0).consequence
    assert describe(lost, 0).message == "Connection closed by peer [127.0.0.1]:1"
    said = "[/a/gloo/transport/tcp/pair.cc:537] Read error [::1]:1971: Connection reset by peer. Check the logs. 🏖️"
    assert describe(RuntimeError(said), 0).message == "Read error [::1]:1971"
    other = RuntimeError("[/a/gloo/transport/tcp/loop.cc:5] the socket is gone 🏖️\nmore of it")
    assert describe(other, 0).message == "the socket is gone"
    assert "pair.cc" in describe(RuntimeError(said), 0).traceback
    assert not describe(ValueError("a defect"), 0).consequence


def test_losses_that_are_not_finite_are_told_and_end_the_training_when_they_stay():
    model = torch.nn.Linear(2, 2)

    def finite() -> bool:
        return weights_are_finite([model])

    watch = LossWatch()
    for _ in range(LARGEST_STREAK - 1):
        assert watch.look(float("inf"), finite) == "the loss is inf"
    assert watch.look(1.0, finite) is None
    for _ in range(LARGEST_STREAK - 1):
        watch.look(float("nan"), finite)
    with pytest.raises(TrainingError, match="times in a row"):
        watch.look(float("nan"), finite)
    with torch.no_grad():
        model.weight[0, 0] = float("nan")
    with pytest.raises(TrainingError, match="weights"):
        LossWatch().look(float("nan"), finite)


def test_each_step_and_rank_draws_its_own_random_numbers():
    seeds = {step_seed(seed, step, rank) for seed in range(3) for step in range(20) for rank in range(4)}
    assert len(seeds) == 3 * 20 * 4
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_run_is_trained_by_one_process_at_a_time(make_run):
    run = make_run()
    handle = take_lock(run)
    with pytest.raises(RunError, match="being trained already"):
        take_lock(run)
    os.close(handle)
    os.close(take_lock(run))


@pytest.mark.parametrize("content", [b'{"layout": "\xff"}', b"[" * 100_000, b"{}"])
def test_a_damaged_plan_is_told_by_name(make_run, content):
    run = make_run()
    run.plan.write_bytes(content)
    with pytest.raises(RunError, match=r"plan\.json") as caught:
        read_layout(run.plan)
    assert caught.value.title == "The plan is damaged"


def test_a_directory_that_is_no_run_is_refused(tmp_path, capsys):
    assert work(tmp_path, time.time()) == 1
    assert "Not a run" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
