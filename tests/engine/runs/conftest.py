from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.contract.layout import Layout
from engine.contract.machine import Device, Machine
from engine.contract.rundir import RunDirectory
from engine.contract.spec import BudgetSpec, RunSpec
from engine.runs.create import create_run


@pytest.fixture
def new_run() -> Callable[..., RunDirectory]:
    """Makes a run that was never started, for ``ranks`` workers on the CPU."""

    def make(name: str = "small", spec: RunSpec | None = None, ranks: int = 1) -> RunDirectory:
        spec = spec or RunSpec(name=name, budget=BudgetSpec(max_steps=100))
        machine = Machine(host="here", devices=(Device(index=0, kind="cpu", slots=4),), cpu_cores=4)
        layout = Layout(
            strategy="single" if ranks == 1 else "ddp", accelerator="cpu", device_indices=tuple(range(ranks)),
            dp_replicate=ranks, micro_batch=4 // ranks, accumulation=1, precision="fp32", threads_per_worker=1,
        )  # fmt: skip
        return create_run(spec, machine, layout, None)

    return make
