"""A node as a process of this machine: what it is told, what it says, and that nothing of it is left over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from engine.contract.events import DevicesFound, Event, Failure, Launched, Telemetry
from engine.contract.rundir import RunDirectory
from engine.contract.spec import BudgetSpec, DataSpec, RunSpec, TokenizerSpec
from engine.hardware.host import identity, is_alive
from engine.runs.hosts import Place
from engine.runs.remote import Remote, forwarded_environment
from engine.runs.wire import Begin, End, Exited, FromNode, Prepared, Ready, from_node

COMMAND = [sys.executable, "-P", "-m", "engine.runs.node"]
Word = TypeVar("Word")
NewRun = Callable[..., RunDirectory]


class Driven:
    """A node that the test talks to."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        self._process = subprocess.Popen(
            COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "TRAINDECK_HOME": str(home), **environment},
        )  # fmt: skip
        self.words: list[FromNode] = []

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, word: msgspec.Struct) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(word) + b"\n")
        self._process.stdin.flush()

    def hear(self, kind: type[Word]) -> Word:
        """The next message of a kind."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.words.append(from_node.decode(line))
            if isinstance(found := self.words[-1], kind):
                return found
        raise AssertionError(f"no {kind.__name__} among {self.words}")

    def hang_up(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def end(self, seconds: float = 30.0) -> int:
        return self._process.wait(seconds)

    def close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        self._process.kill()
        self._process.wait()


@pytest.fixture
def driven(tmp_path: Path) -> Iterator[Callable[..., Driven]]:
    made: list[Driven] = []

    def start(**environment: str) -> Driven:
        made.append(Driven(tmp_path / "their-home", **environment))
        return made[-1]

    yield start
    for node in made:
        node.close()


def _begin(run: RunDirectory, mark: str = "not-there", **environment: str) -> Begin:
    return Begin(
        place=Place(node=1, address="127.0.0.1", port=1, run=run.id),
        host="gpu2",
        directory=str(run.path),
        mark=mark,
        spec=run.spec.read_text(),
        plan=run.plan.read_text(),
        info=run.info.read_text(),
        environment=environment,
    )


def _small(new_run: NewRun, text: Path, lines: int) -> RunDirectory:
    text.write_text("".join(f"the quick brown fox jumps over {number} lazy dogs\n\n" for number in range(lines)))
    spec = RunSpec(
        name="small", data=DataSpec(source=str(text), sequence_length=16), tokenizer=TokenizerSpec(kind="bytes"),
        budget=BudgetSpec(max_steps=10),
    )  # fmt: skip
    return new_run(spec=spec)


def test_a_node_prepares_the_data_in_its_own_home_and_ends_with_its_supervisor(
    new_run: NewRun, driven: Callable[..., Driven], tmp_path: Path
) -> None:
    run = _small(new_run, tmp_path / "text.txt", 500)
    node = driven()
    node.tell(_begin(run))
    ready = node.hear(Ready)
    assert (ready.pid, ready.shared) == (node.pid, False)
    theirs = RunDirectory(Path(ready.directory))
    assert theirs.path == node.home / "nodes" / run.id
    assert node.hear(DevicesFound).host == "gpu2"
    assert node.hear(Launched).what == "data"
    fingerprint = node.hear(Prepared).fingerprint
    assert fingerprint is not None
    assert (node.home / "data" / fingerprint).is_dir()
    assert not run.prepared.exists(), "the first host's directory is not this host's to write"
    assert node.hear(Telemetry).samples
    assert (theirs.path.stat().st_mode & 0o777, theirs.spec.stat().st_mode & 0o777) == (0o700, 0o600)
    assert list((node.home / "runs").glob("*")) == [], "it is no run of that host"
    node.hang_up()
    assert node.hear(Exited).exit_code == 1
    assert node.end() == 1


def test_a_node_that_is_told_to_end_stops_what_it_does(
    new_run: NewRun, driven: Callable[..., Driven], tmp_path: Path
) -> None:
    run = _small(new_run, tmp_path / "text.txt", 600_000)
    node = driven()
    node.tell(_begin(run))
    preparing = identity(node.hear(Launched).pid)
    assert preparing is not None
    node.tell(End())
    assert node.hear(Exited).exit_code != 0
    node.end()
    assert not is_alive(preparing)


def test_a_killed_node_takes_its_processes_along(
    new_run: NewRun, driven: Callable[..., Driven], tmp_path: Path
) -> None:
    run = _small(new_run, tmp_path / "text.txt", 600_000)
    node = driven()
    node.tell(_begin(run))
    preparing = identity(node.hear(Launched).pid)
    assert preparing is not None
    os.kill(node.pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while is_alive(preparing):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_shared_disk_is_noticed_and_not_written_to_twice(new_run: NewRun, driven: Callable[..., Driven]) -> None:
    run = new_run()
    (run.path / "mark").touch()
    before = {path.name for path in run.path.iterdir()}
    node = driven()
    node.tell(_begin(run, mark="mark"))
    assert node.hear(Ready).shared
    assert node.hear(Prepared).fingerprint is None
    assert {path.name for path in run.path.iterdir()} - before == {"node-1.lock", "processes-1"}
    node.hang_up()
    node.end()
    assert not (node.home / "nodes").exists()


def test_data_that_is_not_there_is_told_in_its_own_words(
    new_run: NewRun, driven: Callable[..., Driven], tmp_path: Path
) -> None:
    run = _small(new_run, tmp_path / "text.txt", 10)
    (tmp_path / "text.txt").unlink()
    node = driven()
    node.tell(_begin(run))
    failure = node.hear(Failure)
    assert "text.txt" in failure.message
    assert node.hear(Exited).exit_code == 1


def test_a_home_that_cannot_be_used_is_told(new_run: NewRun, driven: Callable[..., Driven], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    node = driven(TRAINDECK_HOME=str(tmp_path / "file"))
    node.tell(_begin(new_run()))
    assert "folder" in node.hear(Failure).title
    assert node.end() == 1


def test_what_is_no_message_is_refused(driven: Callable[..., Driven]) -> None:
    node = driven()
    node.tell(End())
    assert node.end() == 1
    assert node.words == []


def test_settings_of_the_network_go_along(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"NCCL_DEBUG": "INFO", "GLOO_SOCKET_IFNAME": "ib0", "HOME": "/root", "AWS_SECRET_ACCESS_KEY": "x"}
    assert forwarded_environment(given) == {"NCCL_DEBUG": "INFO", "GLOO_SOCKET_IFNAME": "ib0"}


def test_a_node_without_a_word_is_lost_and_its_noise_is_in_the_log(
    new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run()
    monkeypatch.setenv("TRAINDECK_SSH", f'{sys.executable} -c \'print("Welcome!"); raise SystemExit("no room")\'')
    said: list[Event] = []
    remote = Remote(run, _begin(run), sys.executable, said.append)
    deadline = time.monotonic() + 30
    while not remote.ended:
        remote.tick()
        assert time.monotonic() < deadline
    assert remote.failure is not None
    assert remote.failure.title == "gpu2 was lost"
    assert "no room" in remote.failure.message
    assert f"traindeck resume {run.id}" in remote.failure.hint
    remote.close()
    assert sorted(run.log.read_text().splitlines()) == ["[gpu2] Welcome!", "[gpu2] no room"]
    assert isinstance(said[0], Launched)
    assert said[0].command[-1].endswith("engine.runs.node")
