"""All other hosts of a run: started together, watched together, ended together."""

from __future__ import annotations

import os
import signal
import sys
import time

import msgspec

from engine.contract.events import Failure
from engine.contract.layout import Layout
from engine.contract.records import read_record
from engine.contract.rundir import RunDirectory
from engine.runs.hosts import Place, other_hosts
from engine.runs.preflight import Preflight
from engine.runs.remote import Remote, Say, forwarded_environment
from engine.runs.wire import Begin, End, Go

SETTLE_SECONDS = 15.0
"""What the other hosts have to notice by themselves that the training is over, and to say why."""
LOST_SECONDS = 5.0
"""What the workers here have to notice that a host is gone, and to write a checkpoint if they can."""
END_SECONDS = 60.0
"""What they have to end their workers when they are told to."""
TICK_SECONDS = 0.1
MARK = ".hosts-"
"""Begins the name of the file by which a node knows the directory of the run, if it sees it."""


class _Link(msgspec.Struct, frozen=True):
    """Of ``prepared.json``."""

    fingerprint: str


class Nodes:
    """None of them for a run on one machine: then nothing here does anything."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._nodes: list[Remote] = []
        self._mark = run.path / f"{MARK}{os.urandom(8).hex()}"
        self.place: Place | None = None
        """This host's; None for a run on one machine."""

    def start(self, layout: Layout, found: Preflight, say: Say) -> None:
        """Start a node on each other host that ``found`` speaks of. Raises OSError where ssh cannot be started."""
        assert found.address is not None
        self.place = Place(node=0, address=found.address, port=found.port, run=self._run.id)
        pythons = {report.host: report.python for report in found.hosts}
        for old in self._run.path.glob(f"{MARK}*"):  # of a supervisor that was killed
            old.unlink(missing_ok=True)
        self._mark.touch(mode=0o600)
        for node, host in other_hosts(layout).items():
            python = pythons[host]
            assert python is not None
            begin = Begin(
                place=msgspec.structs.replace(self.place, node=node),
                host=host,
                directory=str(self._run.path),
                mark=self._mark.name,
                spec=self._run.spec.read_text(encoding="utf-8"),
                plan=self._run.plan.read_text(encoding="utf-8"),
                info=self._run.info.read_text(encoding="utf-8"),
                environment=forwarded_environment(dict(os.environ)),
            )
            self._nodes.append(Remote(self._run, begin, python, say))

    @property
    def pids(self) -> list[int]:
        """Of the connections."""
        return [node.pid for node in self._nodes if not node.ended]

    @property
    def prepared(self) -> bool:
        """Whether the data of all of them is ready."""
        return all(node.prepared for node in self._nodes)

    @property
    def failure(self) -> Failure | None:
        """Why the run cannot go on, by the host that was first; None while it can."""
        return next((node.failure for node in self._nodes if node.failure is not None), None)

    @property
    def ended_badly(self) -> bool:
        """Whether the workers of a host are over without having done what they should."""
        return any(node.failure is not None or (node.exit_code or 0) != 0 for node in self._nodes)

    def tick(self) -> None:
        """Take in what has come. A full disk costs the record of it, not the training."""
        for node in self._nodes:
            try:
                node.tick()
            except OSError as error:
                print(f"what {node.host} says cannot be written: {error}", file=sys.stderr, flush=True)

    def train(self) -> Failure | None:
        """Let all begin, their data being ready; or say which host has other data than this one."""
        link = read_record(self._run.prepared, _Link)
        ours = link.fingerprint if link else None
        for node in self._nodes:
            if node.fingerprint not in (None, ours):
                return Failure(
                    title="The hosts have different data",
                    message=f"{node.host} has prepared {node.fingerprint}, and this host {ours}",
                    hint="Copy the source to the same path there (rsync -a), and have the same version of Python: "
                    "its own library is what python-stdlib reads.",
                )
        for node in self._nodes:
            node.tell(Go())
        return None

    @property
    def launcher_failure(self) -> Failure | None:
        """A host whose launcher failed: where nothing is known of its ranks, all that can be said."""
        for node in self._nodes:
            if node.exit_code:
                hint = f"The log says more: traindeck logs {self._run.id}"
                message = f"it ended with exit code {node.exit_code}"
                return Failure(title=f"The launcher of the workers on {node.host} failed", message=message, hint=hint)
        return None

    def end(self, patience: float = 0.0) -> None:
        """Wait until all have ended by themselves, for ``patience`` seconds; then end them and their workers."""
        self._wait(patience)
        for node in self._nodes:
            if not node.ended:
                node.tell(End())
        self._wait(END_SECONDS)

    def close(self) -> None:
        """End all of them, and the connections."""
        self.end()
        for node in self._nodes:
            node.close()
        self._mark.unlink(missing_ok=True)

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while any(not node.ended for node in self._nodes) and time.monotonic() < deadline:
            self.tick()
            time.sleep(TICK_SECONDS)


class Others:
    """The preparation on the other hosts, looked after as a process of this one is: it ends when all are ready."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._ended = False

    def poll(self) -> int | None:
        if self._ended or self._nodes.ended_badly:
            return 1
        return 0 if self._nodes.prepared else None

    def signal(self, number: signal.Signals) -> None:
        self._ended = True

    def wait(self, seconds: float) -> int | None:
        return self.poll()
