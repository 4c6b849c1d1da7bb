"""The command that trains a run, and what it finds in its environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from engine.contract.hosts import LOCALHOST
from engine.contract.layout import Layout
from engine.contract.machine import Device
from engine.hardware.host import usable_cores
from engine.hardware.network import interface_towards
from engine.hardware.visible import worker_environment
from engine.runs.home import VARIABLE, home
from engine.runs.hosts import Place, node_count, other_hosts, ranks_per_host
from engine.runs.ssh import ssh_command

PYTHON = "-P"
"""Keeps Python from importing what lies in the working directory, such as a folder called ``engine``."""

HEAP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
"""Lets glibc keep large blocks for the next step instead of returning them to the system after each: a sixth more
tokens per CPU second at 3 M parameters, for about a sixth more memory. Other C libraries ignore the names."""

GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"

SCRATCH = "torchrun"
"""Folder in the run's directory for what torchrun would otherwise leave in the system's temporary folder."""


def data_command(directory: Path) -> list[str]:
    """What prepares the data of a run, with a process for each core that may be used."""
    workers = str(usable_cores())
    return [sys.executable, PYTHON, "-m", "engine.data", "--run-dir", str(directory), "--workers", workers]


def training_command(
    layout: Layout, directory: Path | str = "DIR", guard: Sequence[str] = (), place: Place | None = None
) -> list[str]:
    """The ``torchrun`` command that trains on one host: its elastic agent starts a worker for each rank there.

    ``guard`` is put in front of each worker. A layout of several hosts takes one such command on each, that differ in
    ``place``; left out, it is that of the first host, before it is known where the hosts meet.
    The rendezvous of several is the static one: only it gives the ranks to the hosts in their order.
    """
    nodes = node_count(layout)
    if nodes == 1:
        meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    else:
        place = place or Place(node=0)
        meeting = [
            "--node-rank", str(place.node),
            "--rdzv-backend", "static", "--rdzv-endpoint", place.endpoint, "--rdzv-id", place.run,
        ]  # fmt: skip
    return [
        sys.executable, PYTHON, "-m", "torch.distributed.run",
        "--nnodes", str(nodes), "--nproc-per-node", str(ranks_per_host(layout)),
        *meeting, "--max-restarts", "0",
        "--log-dir", f"{directory}/{SCRATCH}", "--no-python",
        *guard, sys.executable, PYTHON, "-m", "engine.training", "--run-dir", str(directory),
    ]  # fmt: skip


def node_command(python: str | None = None) -> list[str]:
    """What is started by ssh on each of the other hosts of a run; it starts the training there."""
    return [python or sys.executable, PYTHON, "-m", "engine.runs.node"]


def host_commands(layout: Layout) -> dict[str, list[list[str]]]:
    """All commands of a training by host, in the order of their ranks: on another host ssh's, and what it leads to.

    Directory and meeting point are not known yet, nor where Traindeck is on the other hosts.
    """
    others = other_hosts(layout)
    commands = {}
    for node, host in enumerate(layout.hosts or (LOCALHOST,)):
        training = training_command(layout, place=Place(node=node))
        commands[host] = [*([ssh_command(host, node_command())] if node in others else []), training]
    return commands


def training_environment(layout: Layout, devices: Sequence[Device] = (), place: Place | None = None) -> dict[str, str]:
    """The variables that the workers of this host need beside those that are set."""
    variables = {"PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
    if layout.threads_per_worker is not None:
        variables["OMP_NUM_THREADS"] = str(layout.threads_per_worker)
    if layout.accelerator == "cpu":
        variables |= {name: os.environ.get(name, value) for name, value in HEAP.items()}
    if layout.accelerator == "cuda":
        variables |= worker_environment(devices, layout.device_indices)
    if place is not None and GLOO_INTERFACE not in os.environ:
        # Gloo looks its own host name up, which many systems answer with an address that only they themselves reach.
        interface = interface_towards(place.address)
        variables |= {GLOO_INTERFACE: interface} if interface else {}
    return variables


def process_environment() -> dict[str, str]:
    """The environment of this process for one that runs elsewhere: paths in it are absolute."""
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1", VARIABLE: str(home())}
    if path := environment.get("PYTHONPATH"):
        environment["PYTHONPATH"] = os.pathsep.join(str(Path(part).absolute()) for part in path.split(os.pathsep))
    return environment
