"""A new run: its directory, complete or not there at all."""

from __future__ import annotations

import os
import re
import shutil
import time
import unicodedata
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from engine.contract.check import require
from engine.contract.durable import DISK_FULL, sync_folder, write_durably
from engine.contract.errors import RunError
from engine.contract.layout import Layout
from engine.contract.machine import Machine
from engine.contract.plan import PlanFile
from engine.contract.rundir import RunDirectory, RunInfo
from engine.contract.spec import RunSpec
from engine.contract.specfile import dump_spec
from engine.runs.anchor import anchored
from engine.runs.home import runs_folder


def create_run(
    spec: RunSpec,
    machine: Machine,
    layout: Layout,
    estimate_json: dict[str, Any] | None = None,
    *,
    placed: RunSpec | None = None,
) -> RunDirectory:
    """Write the directory of a new run, with mode 0700.

    ``placed`` is ``spec`` with the hosts of this start, where a batch system chooses them: checked in its place.
    Paths in ``spec`` become absolute. Raises SpecError for a spec that cannot run on ``machine``, and RunError where
    the directory cannot be written (a full disk): then nothing of it is left.
    """
    require(placed or spec, machine)
    spec = anchored(spec)
    created = time.time()
    info = RunInfo(
        id=_new_id(spec.name, created), name=spec.name, created=created, host=machine.host, version=version("traindeck")
    )
    plan = PlanFile(
        layout=layout, budget=spec.budget, sequence_length=spec.data.sequence_length, estimate=estimate_json
    )
    folder = runs_folder() / info.id
    _write(folder, spec, plan, info)
    return RunDirectory(folder)


def _write(folder: Path, spec: RunSpec, plan: PlanFile, info: RunInfo) -> None:
    """All files under a hidden name first: a directory that has its name is complete."""
    aside = RunDirectory(folder.with_name(f".{folder.name}.new"))
    try:
        aside.path.mkdir(mode=0o700)
        for inner in (aside.events, aside.telemetry, aside.checkpoints, aside.errors):
            inner.mkdir(mode=0o700)
        write_durably(aside.spec, dump_spec(spec).encode("utf-8"))
        write_durably(aside.plan, msgspec.json.format(msgspec.json.encode(plan)))
        write_durably(aside.info, msgspec.json.encode(info))
        aside.path.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        shutil.rmtree(aside.path, ignore_errors=True)
        full = error.errno in DISK_FULL
        raise RunError(
            "The run was not created",
            f"{folder} cannot be written: {'the disk is full' if full else error.strerror or error}",
            "Free some space there, or set TRAINDECK_HOME to a folder on another disk.",
        ) from None


def _new_id(name: str, created: float) -> str:
    """``<name>-<date>-<time>-<4 hex digits>`` in lower-case ASCII, so that it is easy to type and to copy."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode("ascii").lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:60].strip("-") or "run"
    return f"{slug}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(created))}-{os.urandom(2).hex()}"
