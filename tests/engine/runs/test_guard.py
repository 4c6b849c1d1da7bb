from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.hardware.host import identity, is_alive

GUARD = [sys.executable, "-P", "-m", "engine.runs.guard"]
WORKER = "import os, signal; {before}; print(os.getpid(), flush=True); signal.pause()"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux tells of a parent's end")


def _until(look: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 30
    while not look():
        assert time.monotonic() < deadline, f"no {what}"
        time.sleep(0.02)


def _start(folder: Path, before: str = "pass", rank: int = 3) -> tuple[subprocess.Popen[bytes], int]:
    """A guard that records in ``folder``, and the pid of its worker."""
    process = subprocess.Popen(
        [*GUARD, "--record", str(folder), "--", sys.executable, "-c", WORKER.format(before=before)],
        stdout=subprocess.PIPE,
        env={**os.environ, "RANK": str(rank)},
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def _recorded(folder: Path, rank: int = 3) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / f"rank{rank}.json").read_text())
    return facts


@pytest.mark.parametrize(("code", "exit_code"), [("raise SystemExit(0)", 0), ("raise SystemExit(7)", 7)])
def test_exit_code_is_passed_on_and_recorded(tmp_path: Path, code: str, exit_code: int) -> None:
    command = [*GUARD, "--record", str(tmp_path), "--", sys.executable, "-c", code]
    assert subprocess.run(command, check=False).returncode == exit_code
    facts = _recorded(tmp_path, rank=0)
    assert (facts["rank"], facts["exit_code"]) == (0, exit_code)
    assert abs(facts["ended"] - time.time()) < 60


def test_a_killed_worker_is_recorded_with_its_signal(tmp_path: Path) -> None:
    process, worker = _start(tmp_path)
    with process:
        before = _recorded(tmp_path)
        os.kill(worker, signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
    assert before == {"rank": 3, "guard": process.pid, "pid": worker, "host": os.uname().nodename}
    assert _recorded(tmp_path)["exit_code"] == -signal.SIGKILL


def test_signals_reach_the_worker_once(tmp_path: Path) -> None:
    before = "signal.signal(signal.SIGTERM, lambda *_: os._exit(os.write(1, b'told\\n')))"
    process, _ = _start(tmp_path, before)
    with process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 5
        assert process.stdout is not None
        assert process.stdout.read() == b"told\n"


def test_a_killed_guard_takes_its_worker_along(tmp_path: Path) -> None:
    process, worker = _start(tmp_path)
    who = identity(worker)
    assert who is not None
    with process:
        process.kill()
        _until(lambda: not is_alive(who), "end of the worker")


@pytest.mark.parametrize("record", [True, False])
def test_a_killed_parent_ends_what_it_guards(tmp_path: Path, record: bool) -> None:
    options = ["--record", str(tmp_path)] if record else []
    command = [*GUARD, *options, "--", sys.executable, "-c", WORKER.format(before="pass")]
    parent = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess; subprocess.run({command!r})"], stdout=subprocess.PIPE
    )
    with parent:
        assert parent.stdout is not None
        who = identity(int(parent.stdout.readline()))
        assert who is not None
        parent.kill()
        _until(lambda: not is_alive(who), "end of the worker")


def test_a_record_that_cannot_be_written_does_not_end_the_worker(tmp_path: Path) -> None:
    command = [*GUARD, "--record", str(tmp_path / "missing"), "--", sys.executable, "-c", "print('worked')"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "worked\n")
    assert "missing" in done.stderr


def test_a_command_that_does_not_exist_says_so(tmp_path: Path) -> None:
    command = [*GUARD, "--record", str(tmp_path), "--", str(tmp_path / "no-such-program")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 127
    assert "no-such-program could not be started" in done.stderr
