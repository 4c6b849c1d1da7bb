"""Questions that only torch, or the readers of data, can answer: a short-lived process of the engine does."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import msgspec

from engine.contract.errors import TraindeckError
from engine.runs.command import process_environment
from engine.runs.logfile import plain_lines

LONGEST_MESSAGE = 2000


def ask_engine(module: str, arguments: Sequence[str], timeout: float, *, show_progress: bool = False) -> dict[str, Any]:
    """The JSON object that ``python -P -m MODULE ARGUMENTS`` prints.

    What it writes to stderr is shown there if ``show_progress``. Interrupting the caller ends the process too. Raises
    TraindeckError with what it said last if it fails, takes longer than ``timeout`` seconds, or prints anything else.
    """
    command = [sys.executable, "-P", "-m", "engine.runs.guard", "--", sys.executable, "-P", "-m", module, *arguments]
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=None if show_progress else errors,
            env=process_environment(),
        ) as process:
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                raise TraindeckError("No answer from the engine", f"{module} took over {timeout:.0f} seconds") from None
            except BaseException:
                process.send_signal(signal.SIGTERM)
                raise
        output.seek(0)
        errors.seek(0)
        printed, said = output.read(), plain_lines(errors.read())
    if code == 0:
        try:
            return msgspec.json.decode(printed, type=dict[str, Any])
        except msgspec.MsgspecError:
            raise TraindeckError("The engine's answer cannot be read", f"{module} printed no JSON object") from None
    raise _failure(module, code, printed, said)


def _failure(module: str, code: int, printed: bytes, said: list[str]) -> TraindeckError:
    """The error that the process told: as ``{"error": {"title", "message", "hint"}}``, or in its last words."""
    try:
        error = msgspec.json.decode(printed, type=dict[str, dict[str, Any]])["error"]
        return TraindeckError(str(error["title"]), str(error.get("message", "")), str(error.get("hint", "")))
    except (msgspec.MsgspecError, KeyError):
        pass  # it did not get as far as that
    if not said:
        return TraindeckError("The engine failed", f"{module} ended with exit code {code}")
    if said[0].startswith("Traceback"):
        return TraindeckError("The engine failed", said[-1][:LONGEST_MESSAGE], f"{module} ended with exit code {code}")
    return TraindeckError(said[0][:LONGEST_MESSAGE], "\n".join(said[1:])[:LONGEST_MESSAGE])
