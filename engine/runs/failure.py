"""Why a process of a run failed: from error files, exit codes, signals and the log."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import msgspec

from engine.contract.events import Failure
from engine.contract.journal import EventReader
from engine.contract.plan import read_plan
from engine.contract.records import read_record
from engine.contract.rundir import RunDirectory, WorkerError
from engine.hardware.host import identity
from engine.runs.hosts import host_of, node_count
from engine.runs.logfile import LINES, log_tail
from engine.runs.processes import RankProcess, read_ranks

_VMSTAT = Path("/proc/vmstat")
_DISK_SIGNS = ("No space left on device", "Disk quota exceeded")
_DISK_LINES = 100
"""How far from the end of the log they count: torchrun itself writes some fifty lines about a worker that failed."""
_DISK_LEAST_BYTES = 1 << 20
"""With less room than this, a disk is full: what did not fit was larger than what is left."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """Where the files stood when a process was launched: what is older belongs to an earlier one."""

    log_bytes: int
    data_bytes: int
    """Length of ``events/data.jsonl``."""
    memory_kills: int | None

    @classmethod
    def begin(cls, run: RunDirectory) -> Attempt:
        return cls(
            log_bytes=_size(run.log), data_bytes=_size(run.events_of("data")), memory_kills=memory_kills()
        )  # fmt: skip


def memory_kills() -> int | None:
    """How many processes the kernel's out-of-memory killer has ended since the boot; None where it is not told."""
    try:
        text = _VMSTAT.read_text()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill ")), None)


def explain_data(run: RunDirectory, attempt: Attempt, exit_code: int) -> Failure:
    """Why the preparation of the data ended with ``exit_code``: in its own words if it had the time to say it."""
    tail = log_tail(run.log, attempt.log_bytes)
    events = EventReader(run.events_of("data"), attempt.data_bytes).read_all()
    said = next((event for event in reversed(events) if isinstance(event, Failure)), None)
    if said is not None:
        return Failure(
            title=said.title, message=said.message, hint=said.hint, exception=said.exception, exit_code=exit_code,
            log_tail=said.log_tail or tail,
        )  # fmt: skip
    title, message, hint = _ending(run, "The preparation of the data", exit_code, attempt)
    return Failure(title=title, message=message, hint=hint, exit_code=exit_code, log_tail=tail)


def explain_training(run: RunDirectory, attempt: Attempt, exit_code: int, elsewhere: Failure | None = None) -> Failure:
    """Why training ended with ``exit_code`` of the elastic agent: what the rank that failed first said.

    ``elsewhere`` is all that is known of another host: it is told where no rank says anything.
    """
    errors = _read_errors(run)
    plan = read_plan(run)
    nodes = node_count(plan.layout) if plan else 1
    ranks = {worker.rank: worker for node in range(nodes) for worker in read_ranks(run, node)}
    first = _first_to_fail(errors, ranks, [] if exit_code < 0 else _vanished(ranks))
    if first not in errors and (full := _full_disk(run, attempt)) is not None:
        worker = None if first is None else ranks.get(first)
        if worker is None or worker.exit_code != -signal.SIGKILL:  # no full disk does that
            return msgspec.structs.replace(full, rank=first, exit_code=exit_code)
    if first is None and elsewhere is not None:
        return elsewhere
    host = host_of(plan.layout, first) if plan and first is not None else None
    worker = None if first is None else ranks.get(first)
    code = worker.exit_code if worker and worker.exit_code else exit_code
    tail = log_tail(run.log, attempt.log_bytes, worker.log_bytes if worker else None)
    if first is not None and first in errors:
        error = errors[first][0]
        message = f"on {host}: {error.message}" if host else error.message
        return Failure(
            title=error.title, message=message, hint=error.hint, exception=error.exception, rank=first,
            exit_code=code, log_tail=tail,
        )  # fmt: skip
    who = "The launcher of the workers (torchrun)" if first is None else f"The worker of rank {first}"
    who += f" on {host}" if host else ""
    if worker is not None and worker.ended is None:
        title, message, hint = f"{who} vanished", "something killed it and its guard", _who_kills(run, attempt)
    else:
        title, message, hint = _ending(run, who, code, attempt)
    return Failure(title=title, message=message, hint=hint, rank=first, exit_code=code, log_tail=tail)


def _read_errors(run: RunDirectory) -> dict[int, tuple[WorkerError, float]]:
    """Error and time of each rank that left one."""
    found = {}
    for path in run.errors.glob("rank*.json"):
        error = read_record(path, WorkerError)
        if error is not None:  # a full disk cut the others short: exit code and log have to do
            found[error.rank] = (error, path.stat().st_mtime)
    return found


def _vanished(ranks: dict[int, RankProcess]) -> list[int]:
    """Workers of this host that are gone, and whose guards are gone as well, without a note of how they ended."""
    return [
        worker.rank
        for worker in ranks.values()
        if worker.ended is None and worker.is_here and identity(worker.pid) is None and identity(worker.guard) is None
    ]


def _full_disk(run: RunDirectory, attempt: Attempt) -> Failure | None:
    """That the disk of the run is full, where it is or the log says that it was."""
    tail = log_tail(run.log, attempt.log_bytes, lines=_DISK_LINES)
    disk = os.statvfs(run.path)
    has_room = disk.f_blocks == 0 or disk.f_bavail * disk.f_frsize >= _DISK_LEAST_BYTES
    if has_room and not any(sign in line for line in tail for sign in _DISK_SIGNS):
        return None
    return Failure(
        title="The disk is full",
        message=f"a process of the run could not write, to {run.path} or to a temporary folder",
        hint=f"Free some space; then, to go on from the last checkpoint: traindeck resume {run.id}",
        log_tail=tail[-LINES:],
    )


def _first_to_fail(
    errors: dict[int, tuple[WorkerError, float]], ranks: dict[int, RankProcess], vanished: Sequence[int]
) -> int | None:
    """The rank whose failure caused the others': one torchrun ends, or one that misses a peer, is a consequence.

    One of those that ``vanished`` is the cause where nobody says another: when it went nobody knows.
    """
    candidates: list[tuple[bool, float, int]] = []
    for rank in errors.keys() | ranks.keys():
        worker, (error, told) = ranks.get(rank), errors.get(rank, (None, float("inf")))
        ended = worker.ended if worker and worker.ended and worker.exit_code else float("inf")
        if error is None and ended == float("inf") and rank not in vanished:
            continue
        consequence = error.consequence if error else bool(worker and worker.exit_code == -signal.SIGTERM)
        candidates.append((consequence, min(told, ended), rank))
    return min(candidates)[2] if candidates else None


def _ending(run: RunDirectory, who: str, exit_code: int, attempt: Attempt) -> tuple[str, str, str]:
    """Title, message and hint for an end of which nothing but the exit code is known."""
    if exit_code >= 0:
        return f"{who} failed", f"it ended with exit code {exit_code}", f"The log says more: traindeck logs {run.id}"
    name = signal.Signals(-exit_code).name if -exit_code in set(signal.Signals) else f"signal {-exit_code}"
    message = f"{who[0].lower()}{who[1:]} was ended by {name} (signal {-exit_code})"
    if -exit_code != signal.SIGKILL:
        return f"{who} was ended", message, f"The log says more: traindeck logs {run.id}"
    return f"{who} was killed", message, _who_kills(run, attempt)


def _who_kills(run: RunDirectory, attempt: Attempt) -> str:
    """What is known of who sends SIGKILL, and what to do about it."""
    now, before = memory_kills(), attempt.memory_kills
    if now is not None and before is not None and now > before:
        return (
            "The kernel's out-of-memory killer ended a process on this host meanwhile: lower layout.micro_batch, "
            "shorten data.sequence_length, or choose a smaller model."
        )
    return f"Someone or something killed it. To go on from the last checkpoint: traindeck resume {run.id}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
