"""Running the ``traindeck`` command in tests: within this process, or as a person would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from engine.contract.events import Checkpoint, Ended, Event, Notice, Sample, Started, State, Train, Validation
from engine.contract.journal import Journal
from engine.contract.layout import Layout
from engine.contract.machine import Device, Machine
from engine.contract.rundir import RunDirectory
from engine.contract.spec import BudgetSpec, RunSpec
from engine.runs.create import create_run
from tui.cli_commands import app

COMMAND = [sys.executable, "-P", "-m", "tui.cli"]
MACHINE = Machine(host="here", devices=(Device(index=0, kind="cpu", slots=4),), cpu_cores=4)
LAYOUT = Layout(
    strategy="single", accelerator="cpu", device_indices=(0,), micro_batch=4, accumulation=2, precision="fp32"
)
BEGUN = 1_700_000_000.0


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def call() -> Callable[..., Done]:
    """Runs the command in this process: cheap, and all but the start of the interpreter is real."""

    def run(*arguments: str, answer: str | None = None, **environment: str) -> Done:
        result = CliRunner().invoke(app, list(arguments), input=answer, env=environment, prog_name="traindeck")
        assert "Traceback" not in result.output, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return Done(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def command() -> Callable[..., Done]:
    """Runs the command as a process of its own, without a terminal."""

    def run(
        *arguments: str, cwd: Path | None = None, timeout: float = 120, limit: Any = None, **environment: str
    ) -> Done:  # fmt: skip
        done = subprocess.run(
            [*COMMAND, *arguments],
            cwd=cwd,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout,
            check=False,
            preexec_fn=limit,
        )
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def new_run() -> Callable[..., RunDirectory]:
    """Makes a run that was never started."""

    def make(name: str = "small", max_steps: int = 40) -> RunDirectory:
        return create_run(RunSpec(name=name, budget=BudgetSpec(max_steps=max_steps)), MACHINE, LAYOUT, None)

    return make


@pytest.fixture
def ended_run(new_run: Callable[..., RunDirectory]) -> RunDirectory:
    """A run of 40 steps that finished, with the files that the engine would have written."""
    run = new_run("ended")
    clock = iter(range(10_000))

    def now() -> float:
        return BEGUN + next(clock)

    with Journal(run.events_of("rank0"), now) as journal:
        for event in _history():
            journal.write(event)
    with Journal(run.events_of("supervisor"), now) as journal:
        journal.write(State(state="finished", reason="max_steps"))
    run.log.write_text("".join(f"line {number}\n" for number in range(100)) + "an \x1b[31mescape\n", encoding="utf-8")
    return run


def _history() -> list[Event]:
    started = Started(
        step=0, parameters=3_148_224, world_size=1, accelerator="cpu", device_names=("a processor",), batch_size=8,
        micro_batch=4, accumulation=2, sequence_length=64, precision="fp32", optimiser="adamw", max_steps=40,
    )  # fmt: skip
    first = Validation(step=0, loss=8.3, perplexity=4023.9, bits_per_byte=3.4, tokens=512, seconds=0.1)
    last = Validation(step=40, loss=3.0, perplexity=20.086, bits_per_byte=1.2, tokens=512, seconds=0.1)
    steps = [
        Train(
            step=step, loss=8.3 - 5 * step / 40, lr=1e-3, grad_norm=1.0, tokens=step * 512, samples=step * 8,
            tokens_per_second=1000.0, step_seconds=0.5, elapsed_seconds=step / 2,
        )
        for step in range(1, 41)
    ]  # fmt: skip
    return [
        State(state="running"),
        started,
        first,
        *steps,
        last,
        Checkpoint(step=40, name="step-000040", bytes=38 << 20, seconds=0.2, best=True),
        Sample(step=40, prompt="def ", text="main():\n    return \x1b[2J1\n"),
        Notice(step=40, message="all is well"),
        Ended(step=40, reason="max_steps", tokens=40 * 512, elapsed_seconds=20.0),
    ]
