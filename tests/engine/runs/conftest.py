from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.contract.layout import Layout
from engine.contract.machine import Device, Machine
from engine.contract.rundir import RunDirectory
from engine.contract.spec import BudgetSpec, RunSpec
from engine.runs.create import create_run

MACHINE = Machine(host="here", devices=(Device(index=0, kind="cpu", slots=4),), cpu_cores=4)
LAYOUT = Layout(
    strategy="single", accelerator="cpu", device_indices=(0,), micro_batch=4, accumulation=1, precision="fp32"
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("TRAINDECK_HOME", str(folder))
    return folder


@pytest.fixture
def new_run() -> Callable[..., RunDirectory]:
    """Makes a run that was never started."""

    def make(name: str = "small", spec: RunSpec | None = None) -> RunDirectory:
        spec = spec or RunSpec(name=name, budget=BudgetSpec(max_steps=100))
        return create_run(spec, MACHINE, LAYOUT, None)

    return make
