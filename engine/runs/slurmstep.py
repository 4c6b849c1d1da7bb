"""A run inside a Slurm allocation: its nodes are its hosts, and everything on them is started through ``srun``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from engine.contract.durable import write_durably
from engine.contract.errors import Problem, RunError, SpecError
from engine.contract.layout import Layout, resolve_layout
from engine.contract.machine import Machine
from engine.contract.plan import PlanFile, read_plan
from engine.contract.records import decode_record
from engine.contract.rundir import RunDirectory
from engine.contract.spec import RunSpec
from engine.contract.specfile import read_spec
from engine.runs import slurm
from engine.runs.command import PYTHON, SCRATCH, process_environment, training_command
from engine.runs.slurmnode import NodeFacts
from engine.runs.slurmscript import job_of_this_process

LOOK_SECONDS = 120.0
"""Starting one small program on each of many nodes, from a file system that all of them then read, takes a while."""


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """The nodes that Slurm gave to the job in which this process runs."""

    job: int
    nodes: tuple[str, ...]
    restarts: int
    """How often the job was put back into the queue before."""

    def step(self, *, kill_together: bool = True) -> list[str]:
        """The ``srun`` that starts one task on each node, with all that the job has there."""
        count = str(len(self.nodes))
        return [
            "srun", "--nodes", count, "--ntasks", count, "--ntasks-per-node", "1", "--overlap", "--cpu-bind=none",
            "--input=none", f"--kill-on-bad-exit={int(kill_together)}", "--chdir=/",
        ]  # fmt: skip

    def look(self, folder: Path) -> list[NodeFacts]:
        """What the nodes say of themselves, in order.

        Raises RunError that names each node which does not answer, lacks ``folder``, or has other versions.
        """
        command = [
            *self.step(kill_together=False), sys.executable, PYTHON, "-m", "engine.runs.slurmnode", "look",
            "--run-dir", str(folder),
        ]  # fmt: skip
        title = "The nodes of the Slurm job cannot train together"
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                timeout=LOOK_SECONDS, check=False, env=process_environment(),
            )  # fmt: skip
        except FileNotFoundError:
            raise RunError(title, "the command srun is not here") from None
        except subprocess.TimeoutExpired:
            raise RunError(title, f"they did not answer within {LOOK_SECONDS:.0f} seconds") from None
        answers = [decode_record(line, NodeFacts) for line in done.stdout.splitlines()]
        facts = sorted((one for one in answers if one is not None), key=lambda one: one.number)
        if wrong := node_problems(self.nodes, facts, folder):
            said = "\n".join(done.stderr.strip().splitlines()[-10:])
            missing = len(facts) < len(self.nodes)
            raise RunError(title, "\n".join([*wrong, *([said] if said and missing else [])]))
        return facts

    def layout(self, spec: RunSpec, machines: Mapping[str, Machine]) -> Layout:
        """What ``spec`` means on the nodes. Raises SpecError, with the node in front where only some have a problem."""
        spec = on_nodes(spec, self.nodes)
        found = {node: resolve_layout(spec, machine) for node, machine in machines.items()}
        layouts = {node: layout for node, layout in found.items() if isinstance(layout, Layout)}
        wrong = {node: problems for node, problems in found.items() if isinstance(problems, list)}
        if not layouts and all(problems == wrong[self.nodes[0]] for problems in wrong.values()):
            raise SpecError(wrong[self.nodes[0]], "the spec on these nodes")
        if wrong:
            named = [
                msgspec.structs.replace(one, message=f"{node}: {one.message}") for node in wrong for one in wrong[node]
            ]
            raise SpecError(named, "the spec on these nodes")
        first = layouts[self.nodes[0]]
        unlike = [node for node, layout in layouts.items() if _devices(layout) != _devices(first)]
        if unlike:
            message = (
                f"{', '.join(unlike)} {'has' if len(unlike) == 1 else 'have'} other devices than {self.nodes[0]}:"
                f" {_words(layouts[unlike[0]])} there, {_words(first)} here"
            )
            hint = "set layout.devices to what all nodes have, or ask for nodes that are alike"
            raise SpecError([Problem(field="layout.devices", message=message, hint=hint)], "the spec on these nodes")
        return first

    def training_command(
        self, layout: Layout, folder: Path | str, guard: Sequence[str], address: str, port: int | str
    ) -> list[str]:
        """The ``srun`` that starts the launcher of the workers on each node."""
        node = [*self.step(), sys.executable, PYTHON, "-m", "engine.runs.slurmnode", "train", "--run-dir", str(folder)]
        return [*node, "--", *launcher(layout, folder, guard, address, port, str(self.job))]


def launcher(
    layout: Layout, folder: Path | str, guard: Sequence[str], address: str, port: int | str, name: str
) -> list[str]:
    """The ``torchrun`` command of one node; its position is in ``PET_NODE_RANK``, so that all nodes run the same.

    The static rendezvous gives ranks in the order of the nodes, which the layout counts on; the dynamic one sorts
    the nodes by what they call themselves.
    """
    if layout.hosts is None or len(layout.hosts) == 1:
        return training_command(layout, folder, guard)
    return [
        sys.executable, PYTHON, "-m", "torch.distributed.run",
        "--nnodes", str(len(layout.hosts)), "--nproc-per-node", str(len(layout.device_indices)),
        "--rdzv-backend", "static", "--rdzv-id", name, "--master-addr", address, "--master-port", str(port),
        "--max-restarts", "0", "--log-dir", f"{folder}/{SCRATCH}", "--no-python",
        *guard, sys.executable, PYTHON, "-m", "engine.training", "--run-dir", str(folder),
    ]  # fmt: skip


def read_allocation(environment: Mapping[str, str] = os.environ) -> Allocation | None:
    """The allocation of this process; None outside of one. Raises RunError where Slurm does not name its nodes."""
    job = job_of_this_process(environment)
    if job is None:
        return None
    restarts = environment.get("SLURM_RESTART_COUNT", "0")
    return Allocation(
        job=job,
        nodes=slurm.host_names(environment["SLURM_JOB_NODELIST"]),
        restarts=int(restarts) if restarts.isdecimal() else 0,
    )


def on_nodes(spec: RunSpec, nodes: Sequence[str]) -> RunSpec:
    """``spec`` with the nodes as its hosts; one node is a machine like any other."""
    hosts = tuple(nodes) if len(nodes) > 1 else None
    return msgspec.structs.replace(spec, layout=msgspec.structs.replace(spec.layout, hosts=hosts))


def node_problems(nodes: Sequence[str], facts: Sequence[NodeFacts], folder: Path) -> list[str]:
    """What keeps the nodes from training together, each named."""
    known = {one.node for one in facts}
    wrong = [f"{node} did not answer" for node in nodes if node not in known]
    wrong += [
        f"{one.node} has no folder {folder} that can be written to: under Slurm, TRAINDECK_HOME has to be on a file"
        " system that all nodes share"
        for one in facts
        if not one.has_folder
    ]
    for one in facts[1:]:
        for package, number in one.versions.items():
            if number != (first := facts[0].versions.get(package)):
                wrong.append(f"{one.node} has {package} {number or 'n/a'}, and {facts[0].node} has {first or 'n/a'}")
    return wrong


def plan_on_nodes(run: RunDirectory, allocation: Allocation) -> tuple[str, int]:
    """Look at the nodes, decide the layout on them and write it down; ``(address, port)`` where they meet.

    It is decided anew at each start of the job: the nodes are others then. Raises RunError or SpecError.
    """
    facts = allocation.look(run.path)
    layout = allocation.layout(read_spec(run.spec), {one.node: one.machine for one in facts})
    plan = read_plan(run)
    if plan is None:
        spec = read_spec(run.spec)
        plan = PlanFile(layout=layout, budget=spec.budget, sequence_length=spec.data.sequence_length)
    elif plan.layout != layout:
        alike = msgspec.structs.replace(plan.layout, hosts=layout.hosts) == layout
        plan = msgspec.structs.replace(plan, layout=layout, estimate=plan.estimate if alike else None)
    try:
        write_durably(run.plan, msgspec.json.format(msgspec.json.encode(plan)))
    except OSError as error:
        raise RunError("The plan could not be written", f"{run.plan}: {error.strerror or error}") from None
    return slurm.node_address(allocation.nodes[0]), facts[0].port


def _devices(layout: Layout) -> tuple[str, tuple[int, ...]]:
    return layout.accelerator, layout.device_indices


def _words(layout: Layout) -> str:
    return f"{layout.accelerator} {', '.join(map(str, layout.device_indices))}"
