from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.contract.events import Failure
from engine.contract.journal import Journal
from engine.contract.rundir import RunDirectory
from engine.runs import failure
from engine.runs.failure import Attempt, explain_data, explain_training
from engine.runs.logfile import log_tail
from engine.runs.processes import folder_of

NOW = time.time()
NewRun = Callable[..., RunDirectory]


def _worker(run: RunDirectory, rank: int, exit_code: int, ended: float, log_bytes: int | None = None) -> None:
    facts = {
        "rank": rank, "pid": 1, "guard": 2, "exit_code": exit_code, "ended": NOW + ended, "log_bytes": log_bytes
    }  # fmt: skip
    folder_of(run).mkdir(exist_ok=True)
    (folder_of(run) / f"rank{rank}.json").write_text(json.dumps(facts))


def _error(run: RunDirectory, rank: int, title: str, told: float, consequence: bool = False) -> None:
    facts = {
        "title": title, "message": "what happened", "hint": "what to do", "exception": "ValueError", "rank": rank,
        "traceback": "...", "consequence": consequence,
    }  # fmt: skip
    path = run.errors / f"rank{rank}.json"
    path.write_text(json.dumps(facts))
    os.utime(path, (NOW + told, NOW + told))


def test_the_rank_that_failed_first_speaks(new_run: NewRun) -> None:
    run = new_run()
    attempt = Attempt.begin(run)
    _error(run, 0, "the consequence", told=2.0)
    _error(run, 1, "the cause", told=1.0)
    _worker(run, 0, 1, ended=2.5)
    _worker(run, 1, 1, ended=4.0)
    found = explain_training(run, attempt, 1)
    assert (found.title, found.rank, found.exception, found.exit_code) == ("the cause", 1, "ValueError", 1)
    assert (found.message, found.hint) == ("what happened", "what to do")


def test_a_killed_rank_goes_before_those_that_missed_it(new_run: NewRun) -> None:
    run = new_run()
    attempt = Attempt.begin(run)
    _worker(run, 1, -signal.SIGKILL, ended=1.0)
    _error(run, 0, "a peer is gone", told=0.9, consequence=True)
    _worker(run, 0, 1, ended=2.0)
    _worker(run, 2, -signal.SIGTERM, ended=0.5)
    found = explain_training(run, attempt, 1)
    assert (found.rank, found.exit_code) == (1, -9)
    assert "rank 1 was killed" in found.title
    assert "SIGKILL" in found.message
    assert "memory" not in found.hint


def test_a_worker_that_vanished_with_its_guard_goes_before_those_that_missed_it(new_run: NewRun) -> None:
    run = new_run()
    attempt = Attempt.begin(run)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    _noted(run, 1, gone.pid)
    _noted(run, 2, os.getpid())
    found = explain_training(run, attempt, 1)
    assert (found.title, found.rank) == ("The worker of rank 1 vanished", 1)
    _error(run, 0, "a peer is gone", told=0.9, consequence=True)
    _worker(run, 0, 1, ended=2.0)
    found = explain_training(run, attempt, 1)
    assert (found.title, found.rank) == ("The worker of rank 1 vanished", 1)
    assert "killed it and its guard" in found.message
    assert f"traindeck resume {run.id}" in found.hint
    _error(run, 2, "the cause", told=0.5)
    assert explain_training(run, attempt, 1).title == "the cause"


def _noted(run: RunDirectory, rank: int, pid: int) -> None:
    """A worker whose end nobody noted."""
    folder_of(run).mkdir(exist_ok=True)
    (folder_of(run) / f"rank{rank}.json").write_text(json.dumps({"rank": rank, "pid": pid, "guard": pid}))


def test_the_memory_killer_is_named_only_if_it_was_at_work(new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_run()
    _worker(run, 0, -signal.SIGKILL, ended=1.0)
    counts = iter([5, 6])
    monkeypatch.setattr(failure, "memory_kills", lambda: next(counts))
    found = explain_training(run, Attempt.begin(run), 1)
    assert "out-of-memory" in found.hint
    assert "micro_batch" in found.hint


def test_kernel_counts_memory_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vmstat").write_text("nr_free_pages 5\noom_kill 3\nother 1\n")
    monkeypatch.setattr(failure, "_VMSTAT", tmp_path / "vmstat")
    assert failure.memory_kills() == 3
    monkeypatch.setattr(failure, "_VMSTAT", tmp_path / "missing")
    assert failure.memory_kills() is None


def test_a_launcher_that_fails_itself_is_not_blamed_on_a_rank(new_run: NewRun) -> None:
    run = new_run()
    run.log.write_text("of an earlier attempt\n")
    attempt = Attempt.begin(run)
    with run.log.open("a") as log:
        log.write("the port is taken\n")
    found = explain_training(run, attempt, 1)
    assert found.rank is None
    assert "torchrun" in found.title
    assert found.log_tail == ("the port is taken",)


@pytest.mark.parametrize("line", ["OSError: [Errno 28] No space left on device", "[Errno 122] Disk quota exceeded"])
def test_a_full_disk_is_the_reason_where_nobody_could_leave_another(new_run: NewRun, line: str) -> None:
    run = new_run()
    run.log.write_text("No space left on device: of an earlier attempt\n")
    attempt = Attempt.begin(run)
    assert "torchrun" in explain_training(run, attempt, 1).title
    with run.log.open("a") as log:
        log.write(f"{line}\nthe launcher ends\n")
    found = explain_training(run, attempt, 1, elsewhere=Failure(title="of another host", message=""))
    assert found.title == "The disk is full"
    assert str(run.path) in found.message
    assert f"traindeck resume {run.id}" in found.hint
    _worker(run, 0, 1, ended=1.0)
    assert (explain_training(run, attempt, 1).title, explain_training(run, attempt, 1).rank) == ("The disk is full", 0)
    _error(run, 0, "its own words", told=0.5)
    assert explain_training(run, attempt, 1).title == "its own words"


def test_a_disk_without_room_is_told_even_if_the_log_could_not_grow(
    new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run()
    found = os.statvfs(run.path)
    fields = list(found)
    fields[4] = 3  # blocks that a person may still use
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(fields))
    assert explain_training(run, Attempt.begin(run), 1).title == "The disk is full"


def test_unknown_signals_and_damaged_error_files(new_run: NewRun) -> None:
    run = new_run()
    (run.errors / "rank0.json").write_text("{half")
    _worker(run, 0, -64, ended=1.0)
    assert "64" in explain_training(run, Attempt.begin(run), 1).message


def test_the_log_ends_where_the_worker_did(new_run: NewRun) -> None:
    run = new_run()
    attempt = Attempt.begin(run)
    run.log.write_text("of the worker\nmuch of torchrun\n")
    _worker(run, 0, 1, ended=1.0, log_bytes=len("of the worker\n"))
    assert explain_training(run, attempt, 1).log_tail == ("of the worker",)


def test_data_speaks_for_itself_or_its_exit_code_does(new_run: NewRun) -> None:
    run = new_run()
    with Journal(run.events_of("data")) as journal:
        journal.write(Failure(title="of an earlier attempt", message=""))
        attempt = Attempt.begin(run)
        assert "exit code 4" in explain_data(run, attempt, 4).message
        assert "SIGSEGV" in explain_data(run, attempt, -signal.SIGSEGV).message
        assert "was killed" in explain_data(run, attempt, -signal.SIGKILL).title
        journal.write(Failure(title="no text", message="the file is empty", hint="give another"))
    found = explain_data(run, attempt, 1)
    assert (found.title, found.message, found.hint, found.exit_code) == (
        "no text", "the file is empty", "give another", 1,
    )  # fmt: skip


def test_tail_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    assert log_tail(log) == ()
    log.write_bytes(b"".join(b"line %d\n" % number for number in range(100_000)))
    assert log_tail(log, lines=2) == ("line 99998", "line 99999")
    log.write_bytes(b"\x1b[31mred\x1b[0m\x07\r\n\n 10%\r 50%\r100%\nbad \xff utf\n" + b"x" * 9999)
    tail = log_tail(log)
    assert tail[:3] == ("red", "100%", "bad � utf")
    assert len(tail[3]) == 500
    assert log_tail(log, begin=10_000_000) == ()
