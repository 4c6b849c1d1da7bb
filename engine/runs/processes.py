"""Which processes a run has, and making sure that none is left over."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from engine.contract.durable import write_durably
from engine.contract.records import read_record
from engine.contract.rundir import ProcessIdentity, RunDirectory
from engine.hardware.host import host_name, identity, is_alive, is_local

TERMINATE_SECONDS = 45.0
"""What left-over processes have to write a checkpoint in before they are killed."""


class RankProcess(msgspec.Struct, frozen=True, kw_only=True):
    """A worker, as its guard noted it."""

    rank: int
    pid: int
    guard: int
    exit_code: int | None = None
    """Negative: ended by that signal. None while it lives, or where its guard was killed as well."""
    ended: float | None = None
    """Seconds since the epoch."""
    log_bytes: int | None = None
    """Length of ``engine.log`` when it ended; None where its output went there through others."""
    host: str = ""
    """Whose processes these are: on a shared disk there may be workers of several hosts."""

    @property
    def is_here(self) -> bool:
        return self.host in {"", host_name()}


def folder_of(run: RunDirectory, node: int = 0) -> Path:
    """Where the guards of the workers on a host, by its position among the hosts of the run, note their processes."""
    return run.path / (f"processes-{node}" if node else "processes")


def read_ranks(run: RunDirectory, node: int = 0) -> list[RankProcess]:
    """The workers that the newest attempt has on a host, by rank."""
    records = (read_record(path, RankProcess) for path in folder_of(run, node).glob("rank*.json"))
    # A full disk may have cut one short: that worker is not known.
    return sorted((worker for worker in records if worker is not None), key=lambda worker: worker.rank)


def have_all_ended(workers: Sequence[RankProcess]) -> bool:
    """Whether there were workers and none is left: what is still there then has nothing to lose.

    A launcher that waits for those of other hosts (up to five minutes, in C++) hears no signal but SIGKILL.
    """
    return bool(workers) and all(worker.ended is not None for worker in workers)


class Known:
    """The identities of a run's processes, on disk, so that a later supervisor finds what an earlier one left."""

    def __init__(self, run: RunDirectory, node: int = 0) -> None:
        self._path = folder_of(run, node) / "known.json"
        self._identities: dict[int, ProcessIdentity] = {}

    def read(self) -> list[ProcessIdentity]:
        return read_record(self._path, list[ProcessIdentity]) or []

    def add(self, pids: Iterable[int]) -> None:
        """Note those of ``pids`` that are new and live. Raises OSError on a full disk."""
        new = {pid: who for pid in pids if pid not in self._identities and (who := identity(pid)) is not None}
        if new:
            self._identities.update(new)
            self.write()

    def write(self) -> None:
        write_durably(self._path, msgspec.json.encode(list(self._identities.values())))


def end_leftovers(identities: Iterable[ProcessIdentity], patience: float = TERMINATE_SECONDS) -> int:
    """End the processes that still live: SIGTERM, and SIGKILL for those that take longer than ``patience`` seconds.

    Returns how many lived. Those of another host are not touched.
    """
    living = [who for who in identities if is_local(who) and is_alive(who)]
    for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
        remaining = [who for who in living if is_alive(who)]
        for who in remaining:
            try:
                os.kill(who.pid, number)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + seconds
        while any(is_alive(who) for who in remaining) and time.monotonic() < deadline:
            time.sleep(0.05)
    return len(living)
