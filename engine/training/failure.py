"""How a worker says why it failed."""

from __future__ import annotations

import contextlib
import re
import sys
import traceback

import msgspec
import torch

from engine.contract.durable import write_durably
from engine.contract.errors import TraindeckError
from engine.contract.rundir import RunDirectory, WorkerError


class TrainingError(TraindeckError):
    """A training that cannot go on."""


CONNECTION_SIGNS = ("connection closed by peer", "connection reset by peer", "nccl", "timed out waiting", "socket")
_CONNECTION_WORDS = re.compile(
    r"(Connection (?:closed|reset) by peer|(?:Read|Write) (?:error|timeout)|Timed out waiting) *(\[[^\]]*\](?::\d+)?)?",
    re.IGNORECASE,
)
"""What gloo says, between the file it was found in and what it advises."""
_SOURCE_PLACE = re.compile(r"^\s*\[[^\]]*\.(?:cc|cpp|h|hpp):\d+\]\s*")
MEMORY_SIGNS = ("out of memory", "can't allocate memory", "cannot allocate memory")


def describe(error: BaseException, rank: int) -> WorkerError:
    """``error`` in words for a person, with its traceback for the log."""
    title, message, hint = "The training failed", str(error) or type(error).__name__, "The log has the traceback"
    consequence = False
    lower = message.lower()
    if isinstance(error, TraindeckError):
        title, message, hint = error.title, error.message, error.hint
    elif _is_out_of_memory(error):
        title = "Out of memory"
        hint = (
            "Lower layout.micro_batch (accumulation makes up for it), shorten data.sequence_length, "
            "choose bf16-mixed or a smaller model"
        )
    elif isinstance(error, torch.distributed.DistError) or (
        isinstance(error, RuntimeError) and any(sign in lower for sign in CONNECTION_SIGNS)
    ):
        title, message, consequence = "Another worker stopped answering", _of_connection(message), True
        hint = "The report of the rank that failed first says why"
    return WorkerError(
        title=title,
        message=message,
        hint=hint,
        exception=type(error).__name__,
        rank=rank,
        traceback="".join(traceback.format_exception(error)),
        consequence=consequence,
    )


def _of_connection(message: str) -> str:
    """What a person wants of a communication library's message: not its source files; the log has all of it."""
    if found := _CONNECTION_WORDS.search(message):
        return " ".join(part for part in found.groups() if part)
    lines = _SOURCE_PLACE.sub("", message).splitlines() or [""]
    return "".join(character for character in lines[0] if character.isascii()).strip() or "a connection was lost"


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in MEMORY_SIGNS)


def write_report(run: RunDirectory, report: WorkerError) -> None:
    """Leave ``report`` where the supervisor finds it, and print it to the log, as far as the disk has room."""
    try:
        print(report.traceback, file=sys.stderr)
        print(f"{report.title}: {report.message}\n{report.hint}", file=sys.stderr, flush=True)
    except OSError:
        pass  # the log is full: the report below has all of it
    try:
        run.errors.mkdir(mode=0o700, exist_ok=True)
        write_durably(run.error_of(report.rank), msgspec.json.encode(report))
    except OSError as error:
        with contextlib.suppress(OSError):
            print(f"the report of this failure cannot be written: {error}", file=sys.stderr, flush=True)
