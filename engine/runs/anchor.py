"""Specs whose paths mean the same from every working directory."""

from __future__ import annotations

from pathlib import Path

import msgspec

from engine.contract.source import STDLIB, kind_of
from engine.contract.spec import RunSpec


def anchored(spec: RunSpec) -> RunSpec:
    """``spec`` with the paths that exist from here made absolute: workers run elsewhere, and profiles are used later.

    Names of the hub and of built-in sources stay as they are.
    """
    data, tokenizer = spec.data, spec.tokenizer
    if data.source != STDLIB and kind_of(data) not in {None, "hub"}:
        data = msgspec.structs.replace(data, source=_absolute(data.source))
    if tokenizer.file is not None and Path(tokenizer.file).expanduser().exists():
        tokenizer = msgspec.structs.replace(tokenizer, file=_absolute(tokenizer.file))
    return msgspec.structs.replace(spec, data=data, tokenizer=tokenizer)


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())
