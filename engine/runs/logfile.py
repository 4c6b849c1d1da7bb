"""The end of ``engine.log``."""

from __future__ import annotations

import os
import re
from pathlib import Path

LINES = 20
LONGEST_LINE = 500
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def log_tail(path: Path, begin: int = 0, end: int | None = None, lines: int = LINES) -> tuple[str, ...]:
    """The last lines between two offsets, without colours and control characters; none where there is no file."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            stop = size if end is None else min(end, size)
            start = max(min(begin, stop), stop - (64 << 10))
            file.seek(start)
            text = file.read(stop - start)
    except FileNotFoundError:
        return ()
    return tuple(plain_lines(text)[-lines:])


def plain_lines(output: bytes) -> list[str]:
    """The lines of a process's output that are not blank, as text without colours and control characters."""
    lines = output.decode("utf-8", errors="replace").split("\n")
    # A progress bar overwrites its line: only what was left of it counts.
    plain = (_ESCAPES.sub("", line.rstrip("\r").rpartition("\r")[2])[:LONGEST_LINE] for line in lines)
    return [line for line in plain if line.strip()]
