from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from engine.contract.errors import RunError
from engine.contract.events import DevicesFound, Event, Started, State, Telemetry, Train, Validation
from engine.contract.journal import Journal
from engine.contract.machine import Device, DeviceSample
from engine.contract.rundir import RunDirectory
from engine.hardware.host import identity
from engine.runs.scan import backwards, only
from engine.runs.status import find_run, list_runs, read_status

NewRun = Callable[..., RunDirectory]


def _write(run: RunDirectory, source: str, *events: Event, at: float | None = None) -> None:
    with Journal(run.events_of(source), now=time.time if at is None else lambda: at) as journal:
        for event in events:
            journal.write(event)


def _train(step: int, loss: float = 2.0) -> Train:
    return Train(
        step=step, loss=loss, lr=1e-3, grad_norm=1.0, tokens=step * 400, samples=step * 4, tokens_per_second=1000.0,
        step_seconds=0.4, elapsed_seconds=step * 0.4,
    )  # fmt: skip


def _started(step: int = 0) -> Started:
    return Started(
        step=step, parameters=10, world_size=1, accelerator="cpu", device_names=("cpu",), batch_size=4, micro_batch=4,
        accumulation=1, sequence_length=100, precision="fp32", optimiser="adamw", max_steps=100,
    )  # fmt: skip


def _validation(step: int, loss: float) -> Validation:
    return Validation(step=step, loss=loss, perplexity=9.0, bits_per_byte=1.0, tokens=5, seconds=0.1)


def _supervised_by(run: RunDirectory, pid: int) -> None:
    run.supervisor.write_bytes(msgspec.json.encode(identity(pid)))


def test_a_new_run_is_queued_and_knows_nothing_else(new_run: NewRun) -> None:
    status = read_status(new_run())
    assert (status.state, status.max_steps, status.step, status.train_loss) == ("queued", 100, None, None)
    assert status.layout is not None
    assert status.layout.micro_batch == 4


def test_a_running_run(new_run: NewRun, tmp_path: Path) -> None:
    run = new_run()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        _supervised_by(run, process.pid)
        _write(run, "supervisor", State(state="starting"), at=10.0)
        _write(run, "rank0", _started(), State(state="running"), _validation(0, 9.0), at=11.0)
        _write(run, "rank0", *[_train(step) for step in range(1, 51)], _validation(50, 3.0), _train(51, 1.5))
        with Journal(run.telemetry / "here.jsonl") as journal:
            journal.write(DevicesFound(host="here", devices=(Device(index=0, kind="cpu", name="a CPU", slots=2),)))
            for use in (0.2, 0.9):
                journal.write(Telemetry(samples=(DeviceSample(index=0, kind="cpu", utilisation=use),)))
        status = read_status(run)
        process.communicate(b"\n")
    assert (status.state, status.step, status.tokens, status.train_loss) == ("running", 51, 20400, 1.5)
    assert (status.validation_loss, status.best_validation_loss, status.validation_perplexity) == (3.0, 3.0, 9.0)
    assert status.tokens_per_second == pytest.approx(1000)
    assert status.eta_seconds == pytest.approx(49 * 400 / 1000)
    assert status.devices[0].name == "a CPU"
    assert status.devices[0].utilisation == 0.9
    gone = read_status(run)
    assert gone.state == "lost"
    assert "supervisor" in (gone.reason or "")
    assert gone.eta_seconds is None
    assert gone.devices[0].utilisation is None
    assert (gone.step, gone.train_loss) == (51, 1.5)


def test_the_time_left_counts_evaluations(new_run: NewRun) -> None:
    run = new_run()
    events = [_train(step) for step in range(1, 51)]
    for event in events:
        event.elapsed_seconds *= 3  # two thirds of the time go into evaluations
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        _supervised_by(run, process.pid)
        _write(run, "rank0", _started(), State(state="running"), *events)
        status = read_status(run)
        process.communicate(b"\n")
    assert status.tokens_per_second == pytest.approx(1000)
    assert status.eta_seconds == pytest.approx(50 * 0.4 * 3)


def test_the_supervisors_end_is_final_for_its_attempt(new_run: NewRun) -> None:
    run = new_run()
    _write(run, "supervisor", State(state="starting"), at=10.0)
    _write(run, "rank0", State(state="running"), at=11.0)
    _write(run, "supervisor", State(state="failed", reason="out of memory"), at=12.0)
    _write(run, "rank0", State(state="paused"), at=13.0)
    assert (read_status(run).state, read_status(run).reason) == ("failed", "out of memory")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        _supervised_by(run, process.pid)
        _write(run, "supervisor", State(state="starting"), at=14.0)
        assert read_status(run).state == "starting"
        process.communicate(b"\n")


def test_a_resume_takes_back_what_came_after_its_checkpoint(new_run: NewRun) -> None:
    run = new_run()
    _write(run, "rank0", _started(), *[_train(step, loss=step) for step in range(1, 31)], _validation(20, 2.0))
    _write(run, "rank0", _validation(30, 1.0), _started(step=25))
    status = read_status(run)
    assert (status.step, status.train_loss, status.tokens) == (25, 25, 10000)
    assert (status.validation_loss, status.best_validation_loss, status.tokens_per_second) == (2.0, 2.0, None)
    _write(run, "rank0", _train(26, loss=0.5))
    status = read_status(run)
    assert (status.step, status.train_loss, status.tokens_per_second) == (26, 0.5, 1000.0)


def test_a_run_of_another_host_is_lost_when_it_is_silent(new_run: NewRun) -> None:
    run = new_run()
    run.supervisor.write_text('{"pid": 1, "started": 1.0, "host": "far-away"}')
    _write(run, "supervisor", State(state="starting"))
    assert read_status(run).state == "starting"
    for path in run.events.iterdir():
        old = time.time() - 1000
        os.utime(path, (old, old))
    status = read_status(run)
    assert status.state == "lost"
    assert "far-away" in (status.reason or "")


def test_a_run_that_was_never_started_is_lost_in_the_end(new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_run()
    monkeypatch.setattr("engine.runs.liveness.LAUNCH_SECONDS", -1.0)
    assert read_status(run).state == "lost"
    assert "never started" in (read_status(run).reason or "")


def test_a_hundred_megabytes_are_read_in_a_moment(new_run: NewRun) -> None:
    run = new_run()
    _write(run, "rank0", _started(), State(state="running"), _validation(0, 9.0), _train(1))
    line = run.events_of("rank0").read_bytes().splitlines(keepends=True)[-1]
    with run.events_of("rank0").open("ab") as file:
        block = line * 10_000
        while file.tell() < 100_000_000:
            file.write(block)
    _write(run, "rank0", _validation(500, 4.0))
    before = time.process_time()
    status = read_status(run)
    seconds = time.process_time() - before
    assert (status.step, status.validation_loss, status.best_validation_loss) == (500, 4.0, 4.0)
    assert seconds < 1.5, f"{seconds:.2f} s of CPU"


def test_thousand_runs_are_listed_quickly(new_run: NewRun, home: Path) -> None:
    run = new_run()
    _write(run, "supervisor", State(state="starting"), State(state="finished", reason="max_steps"))
    _write(run, "rank0", _started(), State(state="running"), *[_train(step) for step in range(1, 101)])
    for number in range(999):
        shutil.copytree(run.path, home / "runs" / f"copy-{number}")
    before = time.process_time()
    first = list_runs()
    middle = time.process_time()
    again = list_runs()
    after = time.process_time()
    assert len(first) == 1000
    assert first == again
    assert {status.state for status in first} == {"finished"}
    assert middle - before < 4
    assert after - middle < 0.5
    _write(run, "supervisor", State(state="starting"), State(state="failed", reason="new"))
    assert {status.state for status in list_runs() if status.directory == str(run.path)} == {"failed"}


def test_list_holds_copied_and_damaged_runs_and_nothing_else(new_run: NewRun, home: Path) -> None:
    first, second = new_run("first"), new_run("second")
    shutil.copytree(first.path, home / "runs" / "copied")
    (home / "runs" / "stranger").mkdir()
    (home / "runs" / ".half.new").mkdir()
    second.info.write_text("damaged")
    found = {Path(status.directory).name: status for status in list_runs()}
    assert set(found) == {first.id, second.id, "copied"}
    assert found[second.id].state == "lost"
    assert "run.json" in (found[second.id].reason or "")


def test_find_by_every_word(new_run: NewRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match="no run yet"):
        find_run("latest")
    clock = iter(range(1000, 2000))
    monkeypatch.setattr("engine.runs.create.time.time", lambda: float(next(clock)))
    first, second, third = new_run("alpha"), new_run("alpha"), new_run("beta one")
    assert find_run(first.id) == first
    assert find_run("alpha") == second
    assert find_run("beta one") == third
    assert find_run("bet") == third
    assert find_run("latest") == third
    assert find_run(str(first.path)) == first
    monkeypatch.chdir(first.path)
    assert find_run(".") == first
    with pytest.raises(RunError, match="2 ids begin"):
        find_run("alph")
    with pytest.raises(RunError, match="no such run"):
        find_run("gamma")
    with pytest.raises(RunError, match="Not a Traindeck run"):
        find_run(str(tmp_path))
    for words in ("", "../home", "a/b"):
        with pytest.raises(RunError):
            find_run(words)


def test_scanning_finds_lines_across_blocks_and_ignores_text_and_halves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.runs.scan.BLOCK", 64)
    path = tmp_path / "events.jsonl"
    with Journal(path) as journal:
        for step in range(300):
            journal.write(State(step=step, state="running", reason='{"kind":"validation"' * (step % 7)))
            journal.write(_validation(step, 1.0))
    with path.open("ab") as file:
        file.write(b'not json\n{"kind":"validation","loss":1.0,"st')
    assert [event.step for event in only(path, "validation")] == list(range(300))
    assert [event.seq for event in backwards(path)] == list(range(600))[::-1]
    assert list(only(tmp_path / "none", "state")) == list(backwards(tmp_path / "none")) == []


@pytest.mark.parametrize("name", ["run.json", "plan.json", "supervisor.json"])
def test_a_damaged_byte_hides_no_run(new_run: NewRun, name: str) -> None:
    sound, damaged = new_run("sound"), new_run("damaged")
    _supervised_by(damaged, os.getpid())
    path = damaged.path / name
    path.write_bytes(re.sub(rb'(: *")', b"\\1\xff", path.read_bytes()))
    listed = {status.run: status for status in list_runs()}
    assert set(listed) == {sound.id, damaged.id}
    assert listed[sound.id].state == "queued"
    if name == "run.json":
        assert listed[damaged.id].state == "lost"
        assert "run.json" in (listed[damaged.id].reason or "")
        with pytest.raises(RunError, match=r"run\.json"):
            read_status(damaged)


def test_a_file_in_the_place_of_a_folder_hides_no_run(new_run: NewRun) -> None:
    sound, damaged, odd = new_run("sound"), new_run("damaged"), new_run("odd")
    shutil.rmtree(damaged.events)
    damaged.events.write_text("no folder")
    odd.events_of("rank0").mkdir()
    listed = {status.run: status for status in list_runs()}
    assert set(listed) == {sound.id, damaged.id, odd.id}
    assert listed[odd.id].state == "lost"
    assert "rank0.jsonl" in (listed[odd.id].reason or "")
    with pytest.raises(RunError, match=r"rank0\.jsonl"):
        read_status(odd)
