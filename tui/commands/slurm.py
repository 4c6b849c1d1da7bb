"""``train --slurm``: the job that is submitted; and a training started in an allocation that one has already."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from engine.contract.errors import Problem, RunError, SpecError
from engine.contract.layout import Layout
from engine.contract.machine import Machine
from engine.contract.rundir import RunDirectory
from engine.contract.spec import RunSpec
from engine.hardware.detect import detect
from engine.planner.estimate import Estimate, plan_object
from engine.runs.command import process_environment, training_command
from engine.runs.home import runs_folder
from engine.runs.launch import start
from engine.runs.remove import delete_run
from engine.runs.slurmscript import (
    Options,
    expected_machine,
    node_count,
    read_options,
    require_slurm,
    script_text,
    submission,
    write_script,
)
from engine.runs.slurmstep import Allocation, on_nodes, read_allocation
from tui.commands.output import emit, say
from tui.text import printable


@dataclass(frozen=True)
class Ground:
    """Where a training will take place."""

    machine: Machine
    """This machine, a node of the allocation, or what is asked for of a node."""
    placed: RunSpec
    """The spec with the nodes as its hosts."""
    options: Options | None = None
    """Of sbatch; None where nothing is submitted."""
    allocation: Allocation | None = None
    """That this process is in; None outside of one, and where a job of its own is submitted."""

    def command(self, layout: Layout) -> list[str]:
        """What will start the workers in DIR; ADDRESS and PORT are found out when they start."""
        if self.allocation is None:
            return training_command(layout)
        return self.allocation.training_command(layout, "DIR", (), "ADDRESS", "PORT")


def ground_of(spec: RunSpec, sbatch: Sequence[str], *, slurm: bool) -> Ground:
    """Where ``spec`` is to be trained. Raises SpecError, and RunError where nodes of an allocation cannot be used."""
    if slurm or sbatch:
        options = read_options(sbatch)
        problems = options if isinstance(options, list) else []
        if spec.layout.hosts is not None:
            hint = "leave it out, and say how many: --sbatch nodes=2"
            problems.append(Problem(field="layout.hosts", message="Slurm chooses the hosts of its jobs", hint=hint))
        if problems or isinstance(options, list):
            raise SpecError(problems, "the Slurm job")
        nodes = [f"node-{number}" for number in range(1, node_count(options) + 1)]
        return Ground(expected_machine(options, detect()), on_nodes(spec, nodes), options)
    allocation = read_allocation()
    if allocation is None:
        return Ground(detect(), spec)
    facts = allocation.look(runs_folder())
    return Ground(facts[0].machine, on_nodes(spec, allocation.nodes), allocation=allocation)


def say_job(spec: RunSpec, found: Estimate, options: Options, *, as_json: bool) -> None:
    """The script that would be written, and the command that would submit it."""
    folder = "DIR"
    script = script_text(folder, spec.name, options, process_environment())
    command = submission(folder)
    if as_json:
        emit({
            "spec": msgspec.to_builtins(spec), "plan": plan_object(found), "script": script, "command": command,
        })  # fmt: skip
        return
    say("\n# batch script: DIR/job.sh (DIR is the directory of the run, on a file system that the nodes share)")
    say(printable(script).rstrip())
    say(f"\n# command\n{shlex.join(command)}")


def start_job(run: RunDirectory, name: str, options: Options) -> None:
    """Submit a new run. Raises RunError with Slurm's own words where it is refused; then nothing of the run is left."""
    try:
        require_slurm()
        write_script(run, name, options)
        start(run)
    except RunError:
        delete_run(run)
        raise
