"""Real detached runs: supervisor, torchrun and workers, on a network small enough for any machine."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest

from engine.contract.errors import RunError
from engine.contract.events import Detached, DevicesFound, Event, Failure, Launched, Started, State, Telemetry
from engine.contract.journal import EventReader
from engine.contract.rundir import RunDirectory, complete_checkpoints
from engine.contract.spec import (
    BudgetSpec,
    CheckpointSpec,
    DataSpec,
    EvaluationSpec,
    LayoutSpec,
    ModelSpec,
    OptimSpec,
    RunSpec,
    TokenizerSpec,
)
from engine.hardware.host import is_alive
from engine.runs import control
from engine.runs.launch import start
from engine.runs.liveness import read_identity
from engine.runs.processes import Known, end_leftovers, read_ranks
from engine.runs.remove import delete_run
from engine.runs.status import read_state, read_status

DEADLINE_SECONDS = 150.0
NewRun = Callable[..., RunDirectory]
T = TypeVar("T")


def until(look: Callable[[], T], what: str) -> T:
    """What ``look`` returns as soon as it is true."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (found := look()):
        assert time.monotonic() < deadline, f"no {what} in {DEADLINE_SECONDS} seconds"
        time.sleep(0.05)
    return found


def until_state(run: RunDirectory, *states: str) -> str | None:
    """Wait for one of ``states`` and return the reason. A run that fails instead shows its log."""

    def look() -> bool:
        state, reason = read_state(run)
        assert state in states or state not in {"failed", "lost"}, (reason, run.log.read_text())
        return state in states

    until(look, " or ".join(states))
    return read_state(run)[1]


def events_of(run: RunDirectory, source: str = "supervisor") -> list[Event]:
    return list(EventReader(run.events_of(source)).read_all())


def steps_of(run: RunDirectory) -> int:
    return read_status(run).step or 0


@pytest.fixture
def small(new_run: NewRun, tmp_path: Path) -> Iterator[NewRun]:
    """Makes a run with far more steps than a test waits for; what it leaves running is ended."""
    made: list[RunDirectory] = []

    def make(ranks: int = 1, lines: int = 3000, **data: object) -> RunDirectory:
        text = tmp_path / "text.txt"
        text.write_text("".join(f"the quick brown fox jumps over {number} lazy dogs\n\n" for number in range(lines)))
        spec = RunSpec(
            name="small",
            data=DataSpec(source=str(text), sequence_length=16),
            tokenizer=TokenizerSpec(kind="bytes"),
            model=ModelSpec(preset="llama-1m", layers=1, hidden=16, heads=2, kv_heads=2, feed_forward=32),
            optim=OptimSpec(batch_size=4),
            layout=LayoutSpec(accelerator="cpu", devices=ranks),
            budget=BudgetSpec(max_steps=10_000_000),
            evaluation=EvaluationSpec(every_steps=None, max_batches=1, sample_tokens=0),
            checkpoint=CheckpointSpec(every_steps=50),
            log_every_steps=5,
        )
        made.append(new_run(spec=spec, ranks=ranks))
        return made[-1]

    yield make
    for run in made:
        who = read_identity(run)
        end_leftovers([*([who] if who else []), *Known(run).read()], patience=0.2)


STARTER = """
import sys, time
from pathlib import Path
from engine.contract.rundir import RunDirectory
from engine.runs.launch import start
start(RunDirectory(Path(sys.argv[1])))
print("started", flush=True)
time.sleep(1000)
"""


def start_from_a_terminal_that_hangs_up(run: RunDirectory, folder: Path) -> None:
    """Start ``run`` from a session of its own, in a folder whose ``engine`` must not be imported, and hang up."""
    (folder / "engine").mkdir(parents=True)
    (folder / "engine/__init__.py").write_text("raise SystemExit('the wrong engine')")
    (folder / "torch.py").write_text("raise SystemExit('the wrong torch')")
    command = [sys.executable, "-P", "-c", STARTER, str(run.path)]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, start_new_session=True) as terminal:
        assert terminal.stdout is not None
        assert terminal.stdout.readline() == b"started\n"
        os.killpg(terminal.pid, signal.SIGHUP)
        assert terminal.wait() == -signal.SIGHUP


@pytest.mark.slow
def test_a_run_outlives_its_terminal_and_does_what_it_is_asked(small: NewRun, tmp_path: Path) -> None:
    run = small()
    start_from_a_terminal_that_hangs_up(run, tmp_path / "elsewhere")
    supervisor = read_identity(run)
    assert supervisor is not None
    assert os.getsid(supervisor.pid) not in {supervisor.pid, os.getsid(0)}
    with pytest.raises(RunError, match="already running"):
        start(run)
    with pytest.raises(RunError, match=r"starting|queued"):
        control.request(run, "checkpoint")
    with pytest.raises(RunError, match="Stop it first"):
        delete_run(run)

    until_state(run, "running")
    until(lambda: steps_of(run) > 20, "steps")
    os.kill(supervisor.pid, signal.SIGHUP)
    status = read_status(run)
    assert status.eta_seconds
    assert (status.max_steps, status.layout is not None) == (10_000_000, True)
    worker = until(lambda: [p for device in read_status(run).devices for p in device.processes or ()], "a worker")[0]
    assert (worker.pid, worker.rank) == (read_ranks(run)[0].pid, 0)

    for action, state in (("pause", "paused"), ("checkpoint", "paused"), ("resume", "running")):
        command = control.resume(run) if action == "resume" else control.request(run, action)
        assert command is not None
        done = control.wait_for(run, command, DEADLINE_SECONDS)
        assert done is not None
        assert done.accepted, done
        until_state(run, state)
        if action == "checkpoint":
            assert complete_checkpoints(run)[-1].name == f"step-{steps_of(run)}"
            with pytest.raises(RunError, match="Cannot pause a run that is paused"):
                control.request(run, "pause")
    paused_at = steps_of(run)
    until(lambda: steps_of(run) > paused_at, "steps after the pause")

    resident = int(Path(f"/proc/{supervisor.pid}/statm").read_text().split()[1]) * resource.getpagesize()
    assert resident < 60 << 20, f"the supervisor takes {resident / 2**20:.0f} MiB"
    assert control.wait_for(run, control.request(run, "stop"), DEADLINE_SECONDS)
    assert until_state(run, "finished") == "stopped"
    until(lambda: not is_alive(supervisor), "end of the supervisor")
    assert not [who for who in Known(run).read() if is_alive(who)]
    assert [event.what for event in events_of(run) if isinstance(event, Launched)] == ["data", "training"]
    samples = [event for path in run.telemetry.iterdir() for event in EventReader(path).read_all()]
    assert isinstance(samples[0], DevicesFound)
    seconds = (samples[-1].time - samples[1].time) / (len(samples) - 2)
    assert all(isinstance(event, Telemetry) for event in samples[1:])
    assert 0.8 < seconds < 1.6, f"a sample every {seconds:.2f} s"
    assert not (run.path / "torchrun").exists()
    delete_run(run)
    assert not run.path.exists()


@pytest.mark.slow
def test_killed_supervisor_takes_its_workers_along_and_the_run_can_be_resumed(small: NewRun) -> None:
    run = small()
    start(run)
    until_state(run, "running")
    until(lambda: complete_checkpoints(run), "a checkpoint")
    supervisor = read_identity(run)
    assert supervisor is not None
    processes = until(lambda: found if len(found := Known(run).read()) >= 4 else [], "known processes")
    os.kill(supervisor.pid, signal.SIGKILL)
    until(lambda: not is_alive(supervisor), "end of the supervisor")
    until_state(run, "lost")
    assert "supervisor" in (read_status(run).reason or "")
    until(lambda: not [who for who in processes if is_alive(who)], "end of its workers")
    assert control.resume(run) is None
    until_state(run, "running")
    starts = [event for event in events_of(run, "rank0") if isinstance(event, Started)]
    assert (starts[0].step, starts[1].step) > (0, 0)
    os.kill(read_identity(run).pid, signal.SIGTERM)  # type: ignore[union-attr] # it was started above
    assert until_state(run, "finished") == "stopped"


@pytest.mark.slow
def test_killed_worker_is_named_with_rank_signal_and_log(small: NewRun) -> None:
    run = small(ranks=2)
    start(run)
    until_state(run, "running")
    until(lambda: steps_of(run) > 5, "steps")
    os.kill(read_ranks(run)[1].pid, signal.SIGKILL)
    reason = until(lambda: read_state(run)[1] if read_state(run)[0] == "failed" else None, "failure")
    assert "rank 1" in reason
    assert "SIGKILL" in reason
    until(lambda: isinstance(events_of(run)[-1], Failure), "last event")
    failure = events_of(run)[-1]
    assert isinstance(failure, Failure)
    assert (failure.rank, failure.exit_code) == (1, -9)
    assert "resume" in failure.hint or "memory" in failure.hint
    assert not [who for who in Known(run).read() if is_alive(who)]


def test_data_that_cannot_be_prepared_fails_the_run_in_its_own_words(small: NewRun, tmp_path: Path) -> None:
    run = small()
    (tmp_path / "text.txt").unlink()
    start(run)
    reason = until(lambda: read_state(run)[1] if read_state(run)[0] == "failed" else None, "failure")
    assert "text.txt" in reason
    until(lambda: isinstance(events_of(run)[-1], Failure), "last event")
    failure = events_of(run)[-1]
    assert isinstance(failure, Failure)
    assert "text.txt" in failure.message
    assert failure.exception in {"DataError", "SpecError"}
    assert any("text.txt" in line for line in failure.log_tail)
    with pytest.raises(RunError, match="Cannot stop a run that is failed"):
        control.request(run, "stop")


def test_a_run_is_stopped_before_it_trains(small: NewRun) -> None:
    run = small(lines=300_000)
    start(run)
    until(lambda: any(isinstance(event, Launched) for event in events_of(run)), "launch of the data process")
    done = control.wait_for(run, control.request(run, "stop"), DEADLINE_SECONDS)
    assert done is not None
    assert done.accepted
    assert until_state(run, "finished") == "stopped before training"
    assert [event.state for event in events_of(run) if isinstance(event, State)] == ["starting", "stopping", "finished"]
    assert not [who for who in Known(run).read() if is_alive(who)]


def test_of_two_starts_at_once_one_is_refused(small: NewRun) -> None:
    run = small(lines=300_000)
    with ThreadPoolExecutor(2) as pool:
        errors = [error for error in pool.map(lambda _: _error_of(lambda: start(run)), range(2)) if error]
    assert ["already running" in str(error) for error in errors] == [True]
    assert len([event for event in events_of(run) if isinstance(event, Detached)]) == 1


def _error_of(attempt: Callable[[], None]) -> RunError | None:
    try:
        attempt()
    except RunError as error:
        return error
    return None


def test_a_run_without_its_plan_fails_and_says_so(small: NewRun) -> None:
    run = small()
    run.plan.write_text("{}")
    start(run)
    reason = until(lambda: read_state(run)[1] if read_state(run)[0] == "failed" else None, "failure")
    assert "plan.json" in reason


def test_a_directory_that_is_not_a_run_is_not_started(tmp_path: Path) -> None:
    for attempt in (start, delete_run, control.resume):
        with pytest.raises(RunError, match="Not a Traindeck run"):
            attempt(RunDirectory(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_cannot_be_started_shows_the_log(small: NewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = small()
    run.events.rename(run.path / "moved")
    run.events.write_text("a file where a folder should be")
    with pytest.raises(RunError, match="could not be started") as caught:
        start(run)
    assert "events" in caught.value.message
    assert str(run.log) in caught.value.hint
