"""Questions that only torch, or the readers of data, can answer: a short-lived process of the engine does."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from engine.contract.errors import TraindeckError
from engine.contract.records import decode_record
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
    module: str, arguments: Sequence[str], timeout: float, progress: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """The JSON object that ``python -P -m MODULE ARGUMENTS`` prints.

    ``progress`` gets each line that it writes to stderr meanwhile. Interrupting the caller ends the process too.
    Raises TraindeckError with what the process said if it fails, takes longer than ``timeout`` seconds, or prints
    anything else.
    """
    command = [sys.executable, "-P", "-m", "engine.runs.guard", "--", sys.executable, "-P", "-m", module, *arguments]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.PIPE, env=process_environment()
        )
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
