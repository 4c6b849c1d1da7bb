"""``train`` and ``demo``: start a training and follow it, or say what would be started."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import msgspec
import typer

from engine.contract.errors import TraindeckError
from engine.contract.events import Validation
from engine.contract.layout import Layout
from engine.contract.rundir import RunDirectory
from engine.contract.spec import RunSpec
from engine.contract.specfile import dump_spec
from engine.hardware.detect import detect
from engine.planner.estimate import Estimate, estimate, fit_problems, plan_object
from engine.runs.command import host_commands, training_environment
from engine.runs.create import create_run
from engine.runs.hosts import other_hosts
from engine.runs.launch import start
from engine.runs.preflight import require_hosts
from engine.runs.state import read_state
from engine.runs.status import read_status
from tui.commands.following import Following
from tui.commands.lines import sample_lines
from tui.commands.opening import open_app
from tui.commands.output import FAILED, emit, in_terminal, note, say
from tui.commands.planning import estimate_text
from tui.commands.slurm import Ground, ground_of, say_job, start_job
from tui.commands.specs import chosen_spec, require_runnable
from tui.commands.watching import follow_or_detach
from tui.text import human_duration, human_number, printable

DEMO_PROFILE = "quickstart"


def train(
    name_or_path: str, sets: list[str], *, name: str | None, detach: bool, dry_run: bool, plain: bool, force: bool,
    as_json: bool, slurm: bool = False, sbatch: Sequence[str] = (),
) -> None:  # fmt: skip
    """Start a spec and follow it. Exits with 1 if the run fails. Raises TraindeckError if it cannot start."""
    spec = chosen_spec(name_or_path, sets, name=name)
    ground = ground_of(spec, sbatch, slurm=slurm)
    require_runnable(ground.placed, ground.machine, name_or_path)
    found = estimate(ground.placed, ground.machine)
    if dry_run:
        _say_what_would_start(spec, ground, found, as_json=as_json)
        return
    run = _start(spec, ground, found, force=force)
    if detach:
        _say_started(run, as_json=as_json)
    elif in_terminal() and not plain and not as_json:
        open_app(run.path)
    else:
        _follow(run, as_json=as_json)


def _say_what_would_start(spec: RunSpec, ground: Ground, found: Estimate, *, as_json: bool) -> None:
    if as_json and ground.options is not None:
        say_job(spec, found, ground.options, as_json=True)
        return
    command = ground.command(found.layout)
    environment = training_environment(found.layout, ground.machine.devices)
    if as_json:
        spec_object = msgspec.to_builtins(spec)
        shown = {"spec": spec_object, "plan": plan_object(found), "command": command, "environment": environment}
        if ground.placed is spec and other_hosts(found.layout):
            shown["hosts"] = host_commands(found.layout)
        emit(shown)
        return
    say(f"# spec\n{printable(dump_spec(spec)).rstrip()}\n")
    say(f"# estimate\n{estimate_text(spec, found)}")
    for problem in fit_problems(found):
        say(f"! {problem}")
    if ground.options is not None:
        say_job(spec, found, ground.options, as_json=False)
        return
    settings = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
    if ground.placed is spec and other_hosts(found.layout):
        _say_commands(found.layout, settings)
        return
    say("\n# command, once the data is prepared (DIR is the directory of the run)")
    say(" \\\n  ".join([" ".join(settings), shlex.join(command)]) if settings else shlex.join(command))


def _say_commands(layout: Layout, settings: list[str]) -> None:
    """What is started on each of several hosts."""
    say("\n# commands on each host, once the data is prepared there: DIR is the directory of the run, ADDRESS:PORT one")
    say("# of the first host that the others reach. GLOO_SOCKET_IFNAME, unless set, is the interface that leads there.")
    for host, commands in host_commands(layout).items():
        say(f"\n# {printable(host, newlines=False)}")
        for number, command in enumerate(commands):
            is_last = number == len(commands) - 1
            say(" \\\n  ".join([" ".join(settings), shlex.join(command)]) if is_last else shlex.join(command))


def _start(spec: RunSpec, ground: Ground, found: Estimate, *, force: bool) -> RunDirectory:
    problems = fit_problems(found)
    if problems and not force:
        raise TraindeckError(
            "It does not fit", "\n".join(map(str, problems)), "Start it all the same with --force."
        )  # fmt: skip
    for problem in problems:
        note(f"warning: {printable(str(problem))}")
    # Where Slurm places it, Slurm has looked at the nodes.
    checked = require_hosts(found.layout, spec) if ground.placed is spec else None
    for odd in checked.warnings if checked else ():
        note(f"warning: {printable(odd.message, newlines=False)}")
    run = create_run(spec, ground.machine, found.layout, plan_object(found), placed=ground.placed)
    if ground.options is not None:
        start_job(run, spec.name, ground.options)
    else:
        start(run)
    return run


def _say_started(run: RunDirectory, *, as_json: bool) -> None:
    if as_json:
        emit({"run": run.id, "directory": str(run.path), "state": read_state(run)[0]})
        return
    name = printable(run.id, newlines=False)
    say(name)
    note(f"watch it    traindeck attach {name}\nend it      traindeck stop {name}")


def _follow(run: RunDirectory, *, as_json: bool) -> None:
    """Follow a run to its end; with ``--json`` its lines go to standard error and its status is the result."""
    following = Following(run)
    note(printable(f"run {run.id} in {run.path}", newlines=False))
    note("ctrl-c leaves it running")
    ended = follow_or_detach(following, to_stderr=as_json)
    if as_json:
        emit(read_status(run))
    if ended and following.view.state != "finished":
        raise typer.Exit(FAILED)


def demo(sets: list[str], *, in_app: bool, as_json: bool) -> None:
    """From nothing to a trained, evaluated and sampled model, told in lines."""
    spec = chosen_spec(DEMO_PROFILE, sets)
    ground = Ground(detect(), spec)
    require_runnable(spec, ground.machine, DEMO_PROFILE)
    found = estimate(spec, ground.machine)
    if in_app:
        open_app(_start(spec, ground, found, force=False).path)
        return
    tell = note if as_json else say
    tell(f"{printable(spec.description)}\n\n{estimate_text(spec, found)}\n")
    run = _start(spec, ground, found, force=False)
    following = Following(run)
    tell(f"run {printable(run.id, newlines=False)} (ctrl-c leaves it running)\n")
    if not follow_or_detach(following, to_stderr=as_json):
        return
    if as_json:
        emit(_summary(following))
    elif following.view.state == "finished":
        _say_summary(following)
    if following.view.state != "finished":
        raise typer.Exit(FAILED)


def _summary(following: Following) -> dict[str, Any]:
    view = following.view
    first, last = _first_and_last(following)
    sample = view.samples[-1] if view.samples else None
    return {
        "run": following.run.id,
        "directory": str(following.run.path),
        "state": view.state,
        "step": view.step,
        "elapsed_seconds": view.elapsed_seconds,
        "validation_perplexity_before": first.perplexity if first else None,
        "validation_perplexity": last.perplexity if last else None,
        "validation_loss": last.loss if last else None,
        "bits_per_byte": last.bits_per_byte if last else None,
        "sample": {"prompt": sample.prompt, "text": sample.text} if sample else None,
    }


def _first_and_last(following: Following) -> tuple[Validation | None, Validation | None]:
    found = following.view.validations
    return (found[0], found[-1]) if found else (None, None)


def _say_summary(following: Following) -> None:
    view, run = following.view, printable(following.run.id, newlines=False)
    first, last = _first_and_last(following)
    if first is not None and last is not None:
        times = first.perplexity / last.perplexity if first.perplexity and last.perplexity else None
        say(
            f"\nvalidation perplexity {human_number(first.perplexity)} before, {human_number(last.perplexity)} after"
            f" {human_duration(view.elapsed_seconds)} of training"
            + (f": {times:,.0f} times lower" if times is not None else "")
            + f" ({human_number(last.bits_per_byte)} bits per byte)"
        )
    if view.samples:
        say("\nit writes:")
        for line in sample_lines(view.samples[-1]):
            say(f"  {line}")
    say(f"\nnext:\n  traindeck attach {run} --once\n  traindeck generate {run} --prompt 'import sys'\n  traindeck")
