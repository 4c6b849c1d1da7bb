"""``python -P -m engine.runs.slurmnode``: what Slurm starts once on each node of a run, through ``srun``.

``look`` says in one line of JSON what the node is like. ``train -- COMMAND...`` runs the launcher of the node's
workers, records the node's devices, and turns Slurm's signals into a checkpoint.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType

import msgspec

from engine.contract.journal import Journal
from engine.contract.machine import Machine
from engine.contract.plan import read_plan
from engine.contract.rundir import RunDirectory
from engine.hardware.detect import detect
from engine.hardware.host import host_name
from engine.runs.command import process_environment, training_environment
from engine.runs.processes import read_ranks
from engine.runs.telemetry import Recorder, journal_of

COMPARED = ("traindeck", "torch", "lightning")
"""Packages that all nodes need in the same version."""
TICK_SECONDS = 0.1
PATIENCE_SECONDS = 30.0
"""From the wish to end until the launcher itself is told, which ends its workers within as long again."""
NOT_HERE = 72
"""Exit code where the run's folder is not on this node (EX_OSFILE of sysexits.h)."""


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a node says of itself."""

    node: str
    """As Slurm calls it."""
    number: int
    """Position in the step: 0 for the first node."""
    host: str
    has_folder: bool
    """Whether the folder is there and can be written to."""
    versions: dict[str, str | None]
    port: int
    """That nothing used a moment ago."""
    machine: Machine


def node_name() -> str:
    """This node as Slurm calls it."""
    return os.environ.get("SLURMD_NODENAME") or host_name()


def node_facts(folder: Path) -> NodeFacts:
    """This node, asked within a step of Slurm's."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in COMPARED:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    return NodeFacts(
        node=node_name(),
        number=int(os.environ.get("SLURM_NODEID", "0")),
        host=host_name(),
        has_folder=os.access(folder, os.W_OK | os.X_OK),
        versions=versions,
        port=port,
        machine=detect(),
    )


class Node:
    """The launcher of this node's workers, from its start to its end."""

    def __init__(self, run: RunDirectory, command: Sequence[str]) -> None:
        self._run = run
        self._command = list(command)
        self._recorder: Recorder | None = None
        self._journal: Journal | None = None
        self._wanted = 0.0
        """When Slurm or the supervisor wished that this ends; 0 if nobody did."""
        self._told: set[int] = set()
        self._broken = False

    def work(self) -> int:
        """Start the launcher and look after it; its exit code."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._note)
        plan = read_plan(self._run)
        environment = process_environment() | {"PET_NODE_RANK": os.environ.get("SLURM_NODEID", "0")}
        if plan is not None:
            self._journal = journal_of(self._run, node_name())
            self._recorder = Recorder(plan.layout, node_name(), self._journal.write)
            environment |= training_environment(plan.layout, self._recorder.devices)
        guard = [sys.executable, "-P", "-m", "engine.runs.guard", "--"]
        child = subprocess.Popen(
            [*guard, *self._command], stdin=subprocess.DEVNULL, env=environment, process_group=0
        )  # fmt: skip
        while (code := child.poll()) is None:
            self._record()
            if self._wanted:
                self._press(child)
            time.sleep(TICK_SECONDS)
        for open_one in (self._recorder, self._journal):
            if open_one is not None:
                open_one.close()
        return code if code >= 0 else 128 - code

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._wanted = self._wanted or time.monotonic()

    def _press(self, child: subprocess.Popen[bytes]) -> None:
        """First a word to each worker, which then writes a checkpoint with the others and ends; later to the launcher.

        Workers that are told to end by the launcher get 30 seconds and no more: too few for a large checkpoint.
        """
        here = [worker for worker in read_ranks(self._run) if worker.ended is None and worker.is_here]
        late = time.monotonic() - self._wanted > PATIENCE_SECONDS
        for worker in here:
            if worker.guard not in self._told:
                self._told.add(worker.guard)
                if _is_guard(worker.guard):
                    _signal(worker.guard, signal.SIGUSR1)
        if late or not (here or self._told):
            self._wanted = time.monotonic() if late else self._wanted
            _signal(-child.pid, signal.SIGTERM)
            self._told.add(-child.pid)

    def _record(self) -> None:
        if self._recorder is None or self._broken:
            return
        try:
            workers = [worker for worker in read_ranks(self._run) if worker.ended is None]
            self._recorder.tick({worker.pid: worker.rank for worker in workers if worker.is_here})
        except OSError as error:  # a full disk: the curves of this node end, its training does not
            self._broken = True
            print(f"the devices of {host_name()} are no longer recorded: {error}", file=sys.stderr, flush=True)


def _is_guard(pid: int) -> bool:
    """Whether a process is what the record of a worker says: a guard that was killed leaves its number to others."""
    try:
        return b"engine.runs.guard" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _signal(pid: int, number: signal.Signals) -> None:
    """Send ``number`` to a process, or with a negative ``pid`` to a group."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it has just ended


def main(arguments: Sequence[str]) -> int:
    """One of the two things that a node is asked for."""
    parser = argparse.ArgumentParser(prog="python -m engine.runs.slurmnode", description="Work on a node of Slurm")
    parser.add_argument("what", choices=("look", "train"))
    parser.add_argument("--run-dir", type=Path, required=True, help="directory of the run, or where runs are kept")
    split = arguments.index("--") if "--" in arguments else len(arguments)
    chosen, command = parser.parse_args(arguments[:split]), arguments[split + 1 :]
    if chosen.what == "look":
        sys.stdout.buffer.write(msgspec.json.encode(node_facts(chosen.run_dir)) + b"\n")
        return 0
    try:
        os.chdir(chosen.run_dir)
    except OSError as error:
        print(f"{node_name()}: {chosen.run_dir}: {error.strerror or error}", file=sys.stderr, flush=True)
        return NOT_HERE
    return Node(RunDirectory(chosen.run_dir), command).work()


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main(sys.argv[1:]))
