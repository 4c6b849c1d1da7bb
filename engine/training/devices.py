"""Fabric on the devices of a layout, and the one way in which the workers agree."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import LightningEnvironment
from torch import distributed

from engine.contract.errors import RunError
from engine.contract.layout import Layout
from engine.contract.shape import ModelShape
from engine.parallel.mesh import Mesh
from engine.parallel.strategy import MeshStrategy


def launched_by_torchrun() -> bool:
    """Whether an elastic agent started this process and watches over it."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def make_fabric(layout: Layout, shape: ModelShape) -> Fabric:
    """Fabric for this worker, its process groups set up.

    Raises RunError where the machine lacks the accelerator or torchrun started another number of workers.
    """
    _check_workers(layout)
    _check_accelerator(layout)
    if layout.threads_per_worker is not None:
        torch.set_num_threads(layout.threads_per_worker)
    plugins: list[Any] = [] if launched_by_torchrun() else [LightningEnvironment()]
    fabric = Fabric(
        accelerator=layout.accelerator,
        devices=layout.devices_per_host if layout.world_size > 1 else 1,
        num_nodes=len(layout.hosts or ("",)),
        strategy=MeshStrategy(layout, tied=shape.tied_embeddings) if layout.world_size > 1 else "auto",
        plugins=plugins,
    )
    fabric.launch()
    return fabric


def mesh_of(fabric: Fabric) -> Mesh | None:
    """The mesh of the ranks; None where there is one rank."""
    strategy = fabric.strategy
    return strategy.mesh if isinstance(strategy, MeshStrategy) else None


def _check_workers(layout: Layout) -> None:
    started = int(os.environ.get("WORLD_SIZE", "1")) if launched_by_torchrun() else 1
    if started != layout.world_size:
        raise RunError(
            "The layout needs another number of workers",
            f"It wants {layout.world_size}, and {started} {'was' if started == 1 else 'were'} started",
            f"Start it with `traindeck resume`, or torchrun --nproc-per-node {layout.world_size}",
        )


def _check_accelerator(layout: Layout) -> None:
    if layout.accelerator == "cuda" and torch.cuda.device_count() < layout.devices_per_host:
        raise RunError(
            "The devices are not there",
            f"The layout wants {layout.devices_per_host} CUDA devices here, and torch sees {torch.cuda.device_count()}",
            "See `traindeck devices`; CUDA_VISIBLE_DEVICES hides devices, and torch may lack CUDA",
        )
    if layout.accelerator == "mps" and not torch.backends.mps.is_available():
        raise RunError("The devices are not there", "torch cannot use an Apple GPU here", "See `traindeck devices`")


def device_name(device: torch.device) -> str:
    """The name that people know the device by."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given, so that a clock read next is honest."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class Ranks:
    """How the workers of a run agree: small numbers over a CPU group, which never waits for a device."""

    def __init__(self, fabric: Fabric) -> None:
        self.rank: int = fabric.global_rank
        self.size: int = fabric.world_size
        self._fabric = fabric
        self._control = distributed.new_group(backend="gloo") if self.size > 1 else None

    def highest(self, values: Sequence[int]) -> list[int]:
        """The highest of each value over all ranks; the same list everywhere."""
        if self.size == 1:
            return list(values)
        numbers = torch.tensor(values, dtype=torch.int64)
        distributed.all_reduce(numbers, op=distributed.ReduceOp.MAX, group=self._control)
        return [int(number) for number in numbers]

    def total(self, values: Sequence[float]) -> list[float]:
        """The sum of each value over all ranks, in double precision."""
        if self.size == 1:
            return list(values)
        numbers = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(numbers, op=distributed.ReduceOp.SUM, group=self._control)
        return [float(number) for number in numbers]
