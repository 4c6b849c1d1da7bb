"""The embedded corpus: the source files of the running interpreter's own standard library."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

from engine.contract.errors import DataError

_NOT_STANDARD = {"site-packages", "dist-packages", "__pycache__"}


def stdlib_files() -> list[Path]:
    """Every ``.py`` file of the standard library in a fixed order, installed packages left out.

    Raises DataError where the interpreter came without sources.
    """
    root = Path(sysconfig.get_path("stdlib"))
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(set(folders) - _NOT_STANDARD)
        found += [Path(folder, name) for name in sorted(names) if name.endswith(".py")]
    files = [file for file in found if file.is_file() and file.stat().st_size]
    if len(files) < 2:
        raise DataError(
            "This Python has no library sources",
            f"there are no .py files in {root}",
            "set data.source to a text file or a folder of them",
        )
    return files
