"""Which spec a command means: a profile or file, the environment's overrides, and the flags'."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import msgspec

from engine.contract.check import check
from engine.contract.errors import Problem, ProfileError, SpecError
from engine.contract.machine import Machine
from engine.contract.spec import RunSpec
from engine.runs.profiles import find_spec

VARIABLE = "TRAINDECK_SET"
TEXTS = {".txt", ".md", ".py", ".json", ".jsonl", ".csv", ".tsv", ".parquet"}
"""What is surely to be trained on, where a spec is expected."""


def chosen_spec(name_or_path: str, sets: Sequence[str], *, name: str | None = None) -> RunSpec:
    """The spec with the overrides of ``$TRAINDECK_SET`` and then those of ``--set`` applied, and its new name.

    Raises ProfileError or SpecError.
    """
    _refuse_a_text(name_or_path)
    spec = find_spec(name_or_path, [*_environment_sets(), *sets])
    return spec if name is None else msgspec.structs.replace(spec, name=name)


def _refuse_a_text(name_or_path: str) -> None:
    """A text file where a spec is expected: what is meant is a training on it."""
    path = Path(name_or_path).expanduser()
    if path.suffix.lower() not in TEXTS or not path.is_file():
        return
    setting = shlex.quote(f"data.source={name_or_path}")
    raise ProfileError(
        "This is no profile and no TOML file",
        name_or_path,
        f"To train on it: traindeck train quickstart --set {setting}",
    )


def require_runnable(spec: RunSpec, machine: Machine, origin: str) -> None:
    """Raise SpecError with everything that is wrong with ``spec`` on this machine."""
    if problems := check(spec, machine):
        raise SpecError(problems, origin)


def _environment_sets() -> list[str]:
    given = os.environ.get(VARIABLE, "")
    try:
        return shlex.split(given)
    except ValueError as error:
        problem = Problem(field="", message=f"{given!r}: {error}", hint="for example: optim.lr=3e-4 seed=1")
        raise SpecError([problem], f"${VARIABLE}") from None
