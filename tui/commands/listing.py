"""``runs`` and ``status``: how trainings stand."""

from __future__ import annotations

from typing import get_args

import typer

from engine.contract.machine import Device
from engine.contract.states import RunStateName
from engine.runs.status import RunStatus, find_run, list_runs, read_status
from tui.commands.output import emit, note, say, widest
from tui.summary import layout_words
from tui.text import (
    human_bytes,
    human_count,
    human_duration,
    human_fraction,
    human_number,
    human_time,
    human_unit,
    pairs,
    reason_words,
    shows_unicode,
    state_symbol,
    table,
)


def runs(state: str | None, *, as_json: bool) -> None:
    """All runs, newest first."""
    if state is not None and state not in get_args(RunStateName):
        choices = ", ".join(get_args(RunStateName))
        raise typer.BadParameter(f"no state is called {state!r}; choose from {choices}", param_hint="--state")
    found = [run for run in list_runs() if state in (None, run.state)]
    if as_json:
        emit({"runs": found})
        return
    if not found:
        note("no runs yet: start one with `traindeck demo`" if state is None else f"no run is {state}")
        return
    in_slurm = any(run.slurm_job is not None for run in found)
    say(
        table(
            [
                "run",
                "state",
                "step",
                "loss",
                "val. perplexity",
                "tokens/s",
                "left",
                "created",
                *["slurm job"] * in_slurm,
            ],
            [[*_row(run), *[slurm_text(run)] * in_slurm] for run in found],
            right=[2, 3, 4, 5, 6],
            widest=widest(),
        )
    )


def _row(run: RunStatus) -> list[str]:
    return [
        run.run,
        f"{state_symbol(run.state, ascii_only=not shows_unicode())} {run.state}",
        _steps(run),
        human_number(run.train_loss),
        human_number(run.validation_perplexity),
        human_count(run.tokens_per_second),
        human_duration(run.eta_seconds),
        human_time(run.created),
    ]


def slurm_text(run: RunStatus) -> str:
    """The newest Slurm job of a run, and what Slurm calls its state where it was asked."""
    return "" if run.slurm_job is None else f"{run.slurm_job} {run.slurm_state or ''}".rstrip()


def _steps(run: RunStatus) -> str:
    done = human_count(run.step)
    return f"{done}/{human_count(run.max_steps)}" if run.max_steps is not None else done


def status(run: str, *, as_json: bool) -> None:
    """One run, as much as is known."""
    found = read_status(find_run(run))
    if as_json:
        emit(found)
    else:
        say(status_text(found))


def status_text(run: RunStatus) -> str:
    """A run in lines of name and value."""
    sign = state_symbol(run.state, ascii_only=not shows_unicode())
    reason = reason_words(run.state, run.reason or "")
    items = [
        ("run", run.run),
        ("name", run.name),
        ("state", f"{sign} {run.state}" + (f": {reason}" if reason else "")),
        ("created", human_time(run.created)),
        ("step", _steps(run)),
        ("tokens", human_count(run.tokens) + (f" of {human_count(run.max_tokens)}" if run.max_tokens else "")),
        ("train loss", human_number(run.train_loss)),
        ("validation loss", human_number(run.validation_loss)),
        ("perplexity", human_number(run.validation_perplexity)),
        ("best loss", human_number(run.best_validation_loss)),
        ("tokens/s", human_count(run.tokens_per_second)),
        ("trained", human_duration(run.elapsed_seconds)),
        ("left", human_duration(run.eta_seconds)),
        ("layout", layout_words(run.layout) if run.layout else "n/a"),
        *([("slurm job", slurm_text(run))] if run.slurm_job is not None else []),
        ("directory", run.directory),
        *((f"device {device.index}", device_text(device)) for device in run.devices),
    ]
    return pairs(items)


def device_text(device: Device) -> str:
    """A device and how busy it is in one line."""
    if device.problem:
        return f"{device.kind} {device.name or 'n/a'}: {device.problem}"
    readings = [
        f"{human_fraction(device.utilisation)} busy",
        f"{human_bytes(device.memory_used_bytes)} of {human_bytes(device.memory_total_bytes)}",
        human_unit(device.temperature_celsius, "°C" if shows_unicode() else "C"),
        human_unit(device.power_watts, "W"),
    ]
    return f"{device.kind} {device.name or 'n/a'}: " + ", ".join(reading for reading in readings if reading != "n/a")
