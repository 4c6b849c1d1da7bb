"""What the words in ``data.source`` mean, judged from names and folder listings alone.

Shared by the screens, which show a problem while the path is typed, and by the reader of the data.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final, Literal

from engine.contract.errors import Problem
from engine.contract.spec import DataSpec

SourceKind = Literal["python-stdlib", "text", "jsonl", "json", "csv", "parquet", "huggingface-disk", "hub"]

STDLIB: Final = "python-stdlib"
SUFFIXES: dict[str, SourceKind] = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet",
}  # fmt: skip
"""Suffixes of structured files; a file with any other suffix is read as text."""

LOOKED_AT = 1000
"""Files of a folder by which its kind is judged: it is judged at every key that is typed."""

_OTHER = f"give an existing path, a hub name such as owner/name, or {STDLIB}"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def kind_of(data: DataSpec) -> SourceKind | None:
    """How the source is read; None where nothing of that name exists and it is no hub name either."""
    if data.source == STDLIB:
        return STDLIB
    path = Path(os.path.expanduser(data.source))
    if not os.path.exists(path):
        explicit = data.source.removeprefix("hub:")
        looks_like_path = data.source.startswith(("/", "./", "../", "~"))
        is_hub = data.format == "hub" or (
            data.format == "auto" and not looks_like_path and _HUB_NAME.fullmatch(explicit) is not None
            and Path(explicit).suffix not in {*SUFFIXES, ".txt", ".md", ".py"}
        )  # fmt: skip
        return "hub" if is_hub else None
    if data.format != "auto":
        return data.format
    if path.is_dir():
        if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
            return "huggingface-disk"
        kinds = {SUFFIXES.get(file.suffix.lower(), "text") for file in islice(_walk(path), LOOKED_AT)}
        return kinds.pop() if len(kinds) == 1 else "text"
    return SUFFIXES.get(path.suffix.lower(), "text")


def files_of(path: Path) -> list[Path]:
    """The readable data files under ``path`` in a fixed order: hidden ones and links out of it are left out.

    A single file is a list of itself.
    """
    return list(_walk(path)) if path.is_dir() else [path]


def _walk(path: Path) -> Iterator[Path]:
    """The files of a folder one by one: whoever looks at the first few does not wait for a whole disk."""
    inside = Path(os.path.realpath(path))
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        for name in sorted(names):
            file = Path(folder, name)
            if (
                not name.startswith(".") and os.path.isfile(file)
                and Path(os.path.realpath(file)).is_relative_to(inside)
            ):  # fmt: skip
                yield file


def source_problems(data: DataSpec) -> Iterator[Problem]:
    """What is wrong with the source as far as its name and place tell."""
    if not data.source.strip():
        yield Problem(field="data.source", message="no data source is given", hint=f"for example {STDLIB}")
        return
    if "\0" in data.source:
        yield Problem(field="data.source", message="a path cannot contain a null character")
        return
    kind = kind_of(data)
    if kind is None:
        yield Problem(
            field="data.source",
            message=f"there is no file or folder {data.source!r}",
            hint=_OTHER,
        )
        return
    if kind in (STDLIB, "hub"):
        return
    path = Path(os.path.expanduser(data.source))
    if not (path.is_dir() or path.is_file()):
        yield Problem(
            field="data.source",
            message=f"{data.source!r} is a pipe, socket or device, not a file",
            hint="write the text to a file first",
        )
    elif not os.access(path, os.R_OK):
        yield Problem(field="data.source", message=f"{data.source!r} cannot be read", hint="check its permissions")
    elif path.is_dir():
        if kind != "huggingface-disk" and next(_walk(path), None) is None:
            yield Problem(field="data.source", message=f"the folder {data.source!r} holds no files", hint=_OTHER)
    elif path.stat().st_size == 0:
        yield Problem(field="data.source", message=f"the file {data.source!r} is empty", hint=_OTHER)
