"""What a run was asked to be, read from its directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from engine.contract.errors import RunError, SpecError
from engine.contract.layout import Layout
from engine.contract.plan import PlanFile
from engine.contract.presets import resolve_shape
from engine.contract.records import UNREADABLE
from engine.contract.rundir import RunDirectory
from engine.contract.shape import ModelShape
from engine.contract.spec import RunSpec
from engine.contract.specfile import read_spec
from engine.contract.splitting import split_problems
from engine.data.prepared import PreparedData, read_prepared


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Spec, layout, data and model shape of a run."""

    run: RunDirectory
    spec: RunSpec
    layout: Layout
    data: PreparedData
    shape: ModelShape


def open_run(path: Path) -> RunDirectory:
    """The run in the directory ``path``. Raises RunError if there is none."""
    run = RunDirectory(path.absolute())
    if not run.is_run():
        raise RunError("Not a run", f"{path} has no {run.info.name}", "See `traindeck runs` for the runs there are")
    return run


def read_inputs(run: RunDirectory) -> Inputs:
    """Everything a training starts from.

    Raises SpecError with all reasons why the layout cannot cut this network, and SpecError, DataError or RunError
    naming a file that is missing or damaged.
    """
    spec = read_spec(run.spec)
    layout = read_layout(run.plan)
    data = read_prepared(run)
    shape = resolve_shape(spec.model, vocabulary=data.manifest.vocabulary, sequence_length=spec.data.sequence_length)
    # Only now is the vocabulary known for certain.
    if problems := split_problems(shape, layout, spec.data.sequence_length):
        raise SpecError(problems, str(run.spec))
    return Inputs(run=run, spec=spec, layout=layout, data=data, shape=shape)


def read_layout(plan: Path) -> Layout:
    """The layout in ``plan.json``. Raises RunError where there is none."""
    try:
        return msgspec.json.decode(plan.read_bytes(), type=PlanFile).layout
    except OSError as error:
        raise RunError("The plan cannot be read", f"{plan}: {error.strerror or error}") from None
    except UNREADABLE as error:
        raise RunError("The plan is damaged", f"{plan}: {error}", "Start the run anew from its spec") from None
