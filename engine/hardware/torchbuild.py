"""Which devices the installed torch was built for, told without importing it."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Literal


@cache
def torch_build() -> Literal["cuda", "rocm", "cpu"] | None:
    """``cuda``, ``rocm`` or ``cpu`` (which includes Apple's builds); None if torch is missing or does not say."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    return build_of(Path(spec.origin).with_name("version.py"))


def build_of(version_file: Path) -> Literal["cuda", "rocm", "cpu"] | None:
    """What torch's generated ``version.py`` says in its lines ``cuda: Optional[str] = '12.6'`` and ``hip: ...``."""
    try:
        text = version_file.read_text(encoding="utf-8")
    except OSError:
        return None
    found = dict(re.findall(r"^(cuda|hip)\b[^=\n]*=\s*(\S+)", text, re.MULTILINE))
    if not found:
        return None
    if found.get("hip", "None") != "None":
        return "rocm"
    return "cuda" if found.get("cuda", "None") != "None" else "cpu"
