"""``commands.jsonl``: requests to a run, appended by anyone, read by the run."""

from __future__ import annotations

import os
import time

import msgspec

from engine.contract.errors import RunError
from engine.contract.rundir import Command, RunDirectory


def append_command(run: RunDirectory, action: str) -> Command:
    """Add a request. One ``write`` to a file opened for appending: several writers do not mix their lines.

    Raises RunError where it cannot be written.
    """
    command = Command(id=os.urandom(8).hex(), action=action, time=time.time())
    try:
        file = os.open(run.commands, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(file, msgspec.json.encode(command) + b"\n")
        finally:
            os.close(file)
    except OSError as error:
        raise RunError(
            "The request could not be written", f"{run.commands}: {error.strerror or error}", "Free some space there."
        ) from None
    return command
