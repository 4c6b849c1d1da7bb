"""Questions that only torch, or the readers of data, can answer: a short-lived process of the engine does."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from engine.contract.errors import TraindeckError
from engine.contract.plan import read_plan
from engine.contract.records import decode_record
from engine.contract.rundir import RunDirectory
from engine.hardware.sampler import Sampler
from engine.hardware.visible import worker_environment
from engine.runs.command import process_environment
from engine.runs.logfile import LINES, plain_lines

LAST_WORDS = 3
"""Lines of stderr that an error without words of its own shows."""


class _Error(msgspec.Struct):
    title: str
    message: str = ""
    hint: str = ""


class _Told(msgspec.Struct):
    """What a process of the engine prints when it fails."""

    error: _Error


def ask_engine(
    module: str,
    arguments: Sequence[str],
    timeout: float,
    progress: Callable[[str], None] | None = None,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The JSON object that ``python -P -m MODULE ARGUMENTS`` prints.

    ``environment`` is set beside what is set here; left out, a question about a run (``--run-dir`` in the arguments)
    goes to the first device that the run trains on. ``progress`` gets each line that it writes to stderr meanwhile.
    Interrupting the caller ends the process too.
    Raises TraindeckError with what the process said if it fails, takes longer than ``timeout`` seconds, or prints
    anything else.
    """
    if environment is None:
        environment = device_environment(run) if (run := _asked_about(arguments)) is not None else {}
    command = [sys.executable, "-P", "-m", "engine.runs.guard", "--", sys.executable, "-P", "-m", module, *arguments]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.PIPE,
            env=process_environment() | dict(environment),
        )  # fmt: skip
        clock = threading.Timer(timeout, process.kill)
        clock.start()
        try:
            said = _listen(process, progress)
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        finally:
            late = not clock.is_alive()
            clock.cancel()
        output.seek(0)
        printed = output.read()
    if code == -signal.SIGKILL and late:
        raise TraindeckError("No answer from the engine", f"{module} took over {timeout:.0f} seconds")
    if code != 0:
        raise _failure(module, code, printed, said)
    answer = decode_record(printed, dict[str, Any])
    if answer is None:
        raise TraindeckError("The engine's answer cannot be read", f"{module} printed no JSON object")
    return answer


def device_environment(run: RunDirectory) -> dict[str, str]:
    """What lets a process see only the first accelerator of a run; nothing on the CPU, or where it is not there now."""
    plan = read_plan(run)
    if plan is None or plan.layout.accelerator != "cuda":
        return {}
    first = plan.layout.device_indices[:1]
    sampler = Sampler(first)
    try:
        devices = sampler.devices()
    finally:
        sampler.close()
    present = any(device.kind in {"cuda", "rocm"} and device.problem is None for device in devices)
    return worker_environment(devices, first) if present else {}


def _asked_about(arguments: Sequence[str]) -> RunDirectory | None:
    pairs = itertools.pairwise(arguments)
    return next((RunDirectory(Path(value)) for name, value in pairs if name == "--run-dir"), None)


def _listen(process: subprocess.Popen[bytes], progress: Callable[[str], None] | None) -> list[str]:
    """What the process writes to stderr until it closes it: the last lines, each passed on as it comes."""
    said: list[str] = []
    assert process.stderr is not None
    with process.stderr as stream:
        for raw in stream:
            for line in plain_lines(raw):
                said = [*said[-LINES:], line]
                if progress is not None:
                    progress(line)
    return said


def _failure(module: str, code: int, printed: bytes, said: list[str]) -> TraindeckError:
    """The error that the process told: as ``{"error": {"title", "message", "hint"}}``, or in its last words."""
    told = decode_record(printed, _Told)
    if told is not None:
        return TraindeckError(told.error.title, told.error.message, told.error.hint)
    if not said:
        return TraindeckError("The engine failed", f"{module} ended with exit code {code}")
    return TraindeckError("The engine failed", "\n".join(said[-LAST_WORDS:]), f"{module} ended with exit code {code}")
