"""One training on two machines: the second is played on this one, reached by a real ssh, with a home of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from engine.contract.events import DevicesFound, Event, Failure, Launched, Notice, Started, Telemetry, Train
from engine.contract.journal import EventReader
from engine.contract.layout import Layout
from engine.contract.machine import Device, Machine, Process
from engine.contract.rundir import ProcessIdentity, RunDirectory, complete_checkpoints
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
from engine.hardware.host import identity, is_alive
from engine.runs import control
from engine.runs.create import create_run
from engine.runs.launch import start
from engine.runs.liveness import read_identity
from engine.runs.processes import Known, end_leftovers
from engine.runs.status import read_state, read_status
from tests.other_machine.fixture import NAME, WHY_NOT, OtherMachine, hiding, other_machine, own_network

DEADLINE_SECONDS = 250.0
STEPS = 12
pytestmark = [pytest.mark.slow, pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or "")]
Make = Callable[..., RunDirectory]
T = TypeVar("T")


def until(look: Callable[[], T], what: str) -> T:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (found := look()):
        assert time.monotonic() < deadline, f"no {what} in {DEADLINE_SECONDS} seconds"
        time.sleep(0.05)
    return found


def until_steps(run: RunDirectory, count: int = 5) -> None:
    def look() -> bool:
        assert read_state(run)[0] not in {"failed", "lost"}, (read_state(run), run.log.read_text())
        return len(losses_of(run)) > count

    until(look, "steps")


def until_ended(run: RunDirectory) -> tuple[str, str | None]:
    until(lambda: read_state(run)[0] in {"finished", "failed", "lost"}, "end")
    return read_state(run)


def events_of(run: RunDirectory, source: str = "supervisor") -> list[Event]:
    return list(EventReader(run.events_of(source)).read_all())


def losses_of(run: RunDirectory) -> list[float | None]:
    return [event.loss for event in events_of(run, "rank0") if isinstance(event, Train)]


def starts_of(run: RunDirectory) -> list[Started]:
    return [event for event in events_of(run, "rank0") if isinstance(event, Started)]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", "TRAINDECK_REMOTE_PYTHON", "GLOO_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def make(tmp_path: Path, home: Path) -> Iterator[Make]:
    """Makes a small run of two ranks, on one host or two; what is left of it in the end is ended."""
    made: list[RunDirectory] = []
    text = tmp_path / "text.txt"
    text.write_text("".join(f"the quick brown fox jumps over {number} lazy dogs\n\n" for number in range(1000)))

    def run(hosts: tuple[str, ...] | None, steps: int = STEPS) -> RunDirectory:
        each = 2 // len(hosts or ("localhost",))
        spec = RunSpec(
            name="two" if hosts else "one",
            data=DataSpec(source=str(text), sequence_length=16),
            tokenizer=TokenizerSpec(kind="bytes"),
            model=ModelSpec(preset="llama-1m", layers=1, hidden=16, heads=2, kv_heads=2, feed_forward=32),
            optim=OptimSpec(batch_size=4),
            layout=LayoutSpec(accelerator="cpu", devices=each, dp_replicate=2, hosts=hosts),
            budget=BudgetSpec(max_steps=steps),
            evaluation=EvaluationSpec(every_steps=None, max_batches=1, sample_tokens=0),
            checkpoint=CheckpointSpec(every_steps=None),
        )
        layout = Layout(
            strategy="ddp", accelerator="cpu", device_indices=tuple(range(each)), hosts=hosts, dp_replicate=2,
            micro_batch=2, accumulation=1, precision="fp32", threads_per_worker=1,
        )  # fmt: skip
        machine = Machine(host="here", devices=(Device(index=0, kind="cpu", slots=4),), cpu_cores=4)
        made.append(create_run(spec, machine, layout, None))
        return made[-1]

    yield run
    for one in made:
        who = read_identity(one)
        end_leftovers([*([who] if who else []), *Known(one).read()], patience=0.2)


def launched(run: RunDirectory, what: str) -> Launched:
    return next(event for event in events_of(run) if isinstance(event, Launched) and event.what == what)


def processes_there(machine: OtherMachine, run: RunDirectory) -> list[ProcessIdentity]:
    """Everything that the node has started, and the node."""
    found = Known(RunDirectory(machine.home / "nodes" / run.id), 1).read()
    return [who for who in found if is_alive(who)]


def test_a_training_over_two_homes_is_that_of_one_machine(
    make: Make, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = hiding(home)
    if not prefix:
        pytest.skip("a folder can be hidden from the second machine only with a mount namespace, which takes root")
    with other_machine(tmp_path / "machine", prefix=prefix) as other:
        monkeypatch.setenv("TRAINDECK_SSH", other.ssh)
        two, one = make(("localhost", NAME)), make(None)
        start(two)
        start(one)
        for run in (two, one):
            assert until_ended(run) == ("finished", "max_steps"), run.log.read_text()
    assert len(losses_of(two)) == STEPS
    assert losses_of(two) == losses_of(one)
    assert [event.world_size for event in starts_of(two)] == [2]
    assert complete_checkpoints(two)
    assert "--node-rank 0" in " ".join(launched(two, "training").command)
    assert "--node-rank 1" in " ".join(launched(two, f"training ({NAME})").command)
    assert launched(two, f"ssh to {NAME}").command[0] == "ssh"
    assert f"[{NAME}] " in two.log.read_text()
    recorded = list(EventReader(two.telemetry / f"{NAME}.jsonl").read_all())
    assert isinstance(recorded[0], DevicesFound)
    assert recorded[0].host == NAME
    samples = [sample for event in recorded if isinstance(event, Telemetry) for sample in event.samples]
    assert {process.rank for sample in samples for process in sample.processes or ()} == {1}
    assert len(read_status(two).devices) == 2
    assert (other.home / "nodes" / two.id / "prepared.json").exists()
    assert not list((other.home / "runs").glob("*")), "a part of a run is no run of that machine"


def test_a_training_over_a_network_of_its_own(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second machine sees nothing of this one's loopback: all goes over the cable between them."""
    try:
        with own_network() as (prefix, theirs, ours), other_machine(tmp_path / "machine", theirs, prefix) as other:
            monkeypatch.setenv("TRAINDECK_SSH", other.ssh)
            run = make(("localhost", NAME))
            start(run)
            assert until_ended(run) == ("finished", "max_steps"), run.log.read_text()
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        pytest.skip(f"a network namespace cannot be made here: {error}")
    assert len(losses_of(run)) == STEPS
    command = launched(run, f"training ({NAME})").command
    assert command[command.index("--rdzv-endpoint") + 1].startswith(f"{ours}:")
    shared = f"{NAME} shares its disk with this host"
    assert any(isinstance(event, Notice) and event.message == shared for event in events_of(run))


def test_a_host_whose_node_dies_is_named_and_the_run_goes_on_from_there_until_a_rank_is_killed_elsewhere(
    make: Make, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with other_machine(tmp_path / "machine", prefix=hiding(home)) as other:
        monkeypatch.setenv("TRAINDECK_SSH", other.ssh)
        run = make(("localhost", NAME), steps=1_000_000)
        start(run)
        until_steps(run)
        there = until(lambda: found if len(found := processes_there(other, run)) >= 3 else [], "processes")
        node = _parent_of(there[0].pid)
        began = time.monotonic()
        os.kill(node, signal.SIGKILL)
        state, reason = until_ended(run)
        took = time.monotonic() - began
        until(lambda: not any(map(is_alive, [*there, *Known(run).read()])), "end of the processes")
        until(lambda: isinstance(events_of(run)[-1], Failure), "last event")
        failure = events_of(run)[-1]
        before = len(losses_of(run))
        assert control.resume(run) is None
        until(lambda: len(starts_of(run)) == 2, "the second start")
        until_steps(run, before + 2)
        former = {who.pid for who in there}
        new = until(lambda: [one for one in _workers(run) if one.rank == 1 and one.pid not in former], "its worker")
        os.kill(new[0].pid, signal.SIGKILL)
        ended = until_ended(run)
    assert (state, (reason or "").partition(":")[0]) == ("failed", f"{NAME} was lost")
    assert took < 110, "seconds to the SIGKILL of a launcher that does not end"
    assert isinstance(failure, Failure)
    assert f"traindeck resume {run.id}" in failure.hint
    second = starts_of(run)[1]
    assert (second.step or 0) > 0, "only the first host has the checkpoint"
    assert second.resumed_from == f"step-{second.step}"
    assert ended[0] == "failed"
    assert (ended[1] or "").startswith(f"The worker of rank 1 on {NAME} was killed")
    assert "SIGKILL" in (ended[1] or "")


def test_a_killed_supervisor_takes_all_along(
    make: Make, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with other_machine(tmp_path / "machine", prefix=hiding(home)) as other:
        monkeypatch.setenv("TRAINDECK_SSH", other.ssh)
        run = make(("localhost", NAME), steps=1_000_000)
        start(run)
        until_steps(run)
        there = until(lambda: found if len(found := processes_there(other, run)) >= 3 else [], "processes")
        here = Known(run).read()
        supervisor = read_identity(run)
        assert supervisor is not None
        os.kill(supervisor.pid, signal.SIGKILL)
        until(lambda: not any(map(is_alive, [*there, *here])), "end of what the killed supervisor had started")


def test_a_host_that_cannot_take_part_fails_the_run_before_anything_is_started(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with other_machine(tmp_path / "machine") as other:
        other.pretend("traindeck", "99.0")
        monkeypatch.setenv("TRAINDECK_SSH", other.ssh)
        run = make(("localhost", NAME))
        start(run)
        state, _ = until_ended(run)
        until(lambda: isinstance(events_of(run)[-1], Failure), "last event")
    failure = events_of(run)[-1]
    assert isinstance(failure, Failure)
    assert (state, failure.title) == ("failed", "1 problem with the hosts of the run")
    assert f"{NAME}: traindeck 99.0 there, and" in failure.message
    assert not [event for event in events_of(run) if isinstance(event, Launched)]


def test_hosts_with_different_text_are_not_trained_together(
    make: Make, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = hiding(home)
    if not prefix:
        pytest.skip("a folder can be hidden from the second machine only with a mount namespace, which takes root")
    run = make(("localhost", NAME))
    other_text = tmp_path / "other.txt"
    other_text.write_text("".join(f"something else, {number} times\n\n" for number in range(1000)))
    bind = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" "$1" && shift && exec "$@"', str(other_text)]
    bind.append(str(tmp_path / "text.txt"))
    with other_machine(tmp_path / "machine", prefix=[*prefix, *bind]) as other:
        monkeypatch.setenv("TRAINDECK_SSH", other.ssh)
        start(run)
        state, reason = until_ended(run)
    assert (state, (reason or "").partition(":")[0]) == ("failed", "The hosts have different data")
    assert NAME in (reason or "")


def _workers(run: RunDirectory) -> list[Process]:
    return [process for device in read_status(run).devices for process in device.processes or ()]


def _parent_of(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    parent = identity(int(fields[1]))
    assert parent is not None
    assert b"engine.runs.node" in Path(f"/proc/{parent.pid}/cmdline").read_bytes()
    return parent.pid
