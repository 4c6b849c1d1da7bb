"""The command that trains a run, and what it finds in its environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from engine.contract.layout import Layout
from engine.contract.machine import Device
from engine.hardware.host import usable_cores
from engine.hardware.visible import worker_environment
from engine.runs.home import VARIABLE, home

PYTHON = "-P"
"""Keeps Python from importing what lies in the working directory, such as a folder called ``engine``."""

HEAP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
"""Lets glibc keep large blocks for the next step instead of returning them to the system after each: a sixth more
tokens per CPU second at 3 M parameters, for about a sixth more memory. Other C libraries ignore the names."""

SCRATCH = "torchrun"
"""Folder in the run's directory for what torchrun would otherwise leave in the system's temporary folder."""


def data_command(directory: Path) -> list[str]:
    """What prepares the data of a run, with a process for each core that may be used."""
    workers = str(usable_cores())
    return [sys.executable, PYTHON, "-m", "engine.data", "--run-dir", str(directory), "--workers", workers]


def training_command(layout: Layout, directory: Path | str = "DIR", guard: Sequence[str] = ()) -> list[str]:
    """The ``torchrun`` command that trains on one host: its elastic agent starts a worker for each rank.

    ``guard`` is put in front of each worker.
    """
    return [
        sys.executable, PYTHON, "-m", "torch.distributed.run",
        "--nnodes", "1", "--nproc-per-node", str(layout.world_size),
        "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--max-restarts", "0",
        "--log-dir", f"{directory}/{SCRATCH}", "--no-python",
        *guard, sys.executable, PYTHON, "-m", "engine.training", "--run-dir", str(directory),
    ]  # fmt: skip


def training_environment(layout: Layout, devices: Sequence[Device] = ()) -> dict[str, str]:
    """The variables that the workers need beside those that are set."""
    variables = {"PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
    if layout.threads_per_worker is not None:
        variables["OMP_NUM_THREADS"] = str(layout.threads_per_worker)
    if layout.accelerator == "cpu":
        variables |= {name: os.environ.get(name, value) for name, value in HEAP.items()}
    if layout.accelerator == "cuda":
        variables |= worker_environment(devices, layout.device_indices)
    return variables


def process_environment() -> dict[str, str]:
    """The environment of this process for one that runs elsewhere: paths in it are absolute."""
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1", VARIABLE: str(home())}
    if path := environment.get("PYTHONPATH"):
        environment["PYTHONPATH"] = os.pathsep.join(str(Path(part).absolute()) for part in path.split(os.pathsep))
    return environment
