"""Small JSON files that hold one struct: whole and of the right form, or as good as absent."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

Record = TypeVar("Record")

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding foreign or damaged JSON raises."""


def decode_record(text: bytes | str, kind: type[Record]) -> Record | None:
    """The struct in ``text``; None where it is no JSON or of another form."""
    try:
        return msgspec.json.decode(text, type=kind)
    except UNREADABLE:
        return None


def read_record(path: Path, kind: type[Record]) -> Record | None:
    """The struct in a file; None where the file is missing, unreadable, damaged or of another form."""
    try:
        return decode_record(path.read_bytes(), kind)
    except OSError:
        return None
