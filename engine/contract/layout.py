"""From what a person asked (``LayoutSpec``) to the layout that runs, on a given machine."""

from __future__ import annotations

from typing import Literal

import msgspec

from engine.contract.errors import Problem
from engine.contract.limits import divisors
from engine.contract.machine import Machine
from engine.contract.spec import Checkpointing, LayoutSpec, OptimSpec, Precision, RunSpec, Schedule

DEFAULT_BATCH_SIZE = 32
LARGEST_DEFAULT_MICRO_BATCH = 8

ChosenStrategy = Literal["single", "ddp", "zero2", "fsdp", "hsdp", "tensor", "pipeline", "hybrid"]


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of the parallel axes and the choices that go with them, all decided.

    Ranks count through ``(pp, dp_replicate, dp_shard, cp, tp)`` with tp fastest, and through the hosts in order.
    """

    strategy: ChosenStrategy
    accelerator: Literal["cpu", "cuda", "mps"]
    device_indices: tuple[int, ...]
    """Which devices of each host, by index; CPU worker slots are numbered from 0."""
    hosts: tuple[str, ...] | None = None
    """As in the spec."""
    pp: int = 1
    dp_replicate: int = 1
    dp_shard: int = 1
    cp: int = 1
    tp: int = 1
    schedule: Schedule | None = None
    """None without a pipeline."""
    virtual_stages: int = 1
    """Pipeline stages of one rank."""
    stages: tuple[int, ...] | None = None
    """Layers of each of the ``pp * virtual_stages`` stages; None without a pipeline."""
    micro_batch: int
    """Sequences that one rank processes at a time; the most of any rank where they differ."""
    micro_batches: tuple[int, ...] | None = None
    """The same for each data rank, where they differ."""
    accumulation: int
    """Micro-batches per rank and step."""
    reshard: bool = True
    """Whether sharded parameters are given up after the forward pass (ZeRO-3) or kept for the backward one (ZeRO-2)."""
    checkpointing: Checkpointing = "none"
    """Activation checkpointing."""
    checkpoint_every: int = 1
    loss_chunks: int = 1
    offload_optimizer: bool = False
    precision: Precision
    threads_per_worker: int | None = None

    @property
    def world_size(self) -> int:
        return self.pp * self.dp_replicate * self.dp_shard * self.cp * self.tp

    @property
    def data_ranks(self) -> int:
        """Ranks that see different samples."""
        return self.dp_replicate * self.dp_shard

    @property
    def samples_per_micro_batch(self) -> int:
        """Sequences of one micro-batch over all data ranks."""
        return sum(self.micro_batches) if self.micro_batches else self.micro_batch * self.data_ranks

    @property
    def batch_size(self) -> int:
        """Sequences per optimiser step over all devices."""
        return self.samples_per_micro_batch * self.accumulation


def batch_of(optim: OptimSpec, layout: LayoutSpec, data_ranks: int) -> tuple[int, int] | Problem:
    """``(micro_batch, accumulation)`` such that they and ``data_ranks`` multiply to the batch size."""
    micro, steps, batch = layout.micro_batch, layout.accumulation, optim.batch_size
    if batch is None and (micro is not None or steps is not None):
        return micro or 1, steps or 1
    if batch is None:
        # Nothing was asked for, so nothing may be refused: three devices take 30 sequences.
        batch = max(DEFAULT_BATCH_SIZE - DEFAULT_BATCH_SIZE % data_ranks, data_ranks)
    if batch % data_ranks:
        lower = max(batch - batch % data_ranks, data_ranks)
        return Problem(
            field="optim.batch_size",
            message=f"{batch} sequences do not divide among {data_ranks} data-parallel devices",
            hint=f"use {lower} or {batch - batch % data_ranks + data_ranks}",
        )
    per_rank = batch // data_ranks
    if micro is None and steps is None:
        micro = max(n for n in range(1, LARGEST_DEFAULT_MICRO_BATCH + 1) if per_rank % n == 0)
    if micro is None:
        micro = per_rank // max(1, steps or 1)
    if steps is None:
        steps = max(1, per_rank // max(1, micro))
    if micro * steps != per_rank:
        return Problem(
            field="layout.micro_batch" if layout.accumulation is None else "layout.accumulation",
            message=f"{micro} sequences x {steps} accumulated x {data_ranks} devices is not the batch size {batch}",
            hint=_remedy(layout, micro, per_rank),
        )
    return micro, steps


def _remedy(layout: LayoutSpec, micro: int, per_rank: int) -> str:
    """What to change where micro-batch and accumulation do not make the batch of one device."""
    if layout.accumulation is None and micro > 0 and per_rank > 0:
        fitting = divisors(per_rank, micro)[-1]
        return f"use {fitting}, or leave batch_size out"
    return "leave accumulation or batch_size out, and it follows from the others"


def resolve_layout(spec: RunSpec, machine: Machine) -> Layout | list[Problem]:
    """The layout that ``spec`` means on ``machine``, or every reason why there is none."""
    wanted = spec.layout
    accelerator = machine.accelerator() if wanted.accelerator == "auto" else wanted.accelerator
    kind = "cuda" if accelerator == "rocm" else accelerator
    indices = _device_indices(wanted, kind, machine)
    if isinstance(indices, Problem):
        return [indices]
    problems = []
    count = len(indices)
    if wanted.strategy == "single" and count > 1:
        problems.append(
            Problem(field="layout.strategy", message=f"'single' cannot use {count} devices", hint="choose 'ddp'")
        )
    if wanted.strategy == "ddp" and count == 1:
        why = "1 is chosen" if wanted.devices is not None else "there is 1 here"
        message = f"'ddp' needs at least 2 devices or CPU workers, and {why}"
        problems.append(Problem(field="layout.strategy", message=message, hint="choose 'auto' or 'single'"))
    replicas = wanted.dp_replicate or count
    if replicas != count:
        problems.append(
            Problem(
                field="layout.dp_replicate",
                message=f"{replicas} replicas need {replicas} devices, and {count} are chosen",
                hint="leave dp_replicate out, or change layout.devices",
            )
        )
    if kind == "mps" and count > 1:
        problems.append(
            Problem(field="layout.devices", message="an Apple GPU is one device", hint="set layout.devices = 1")
        )
    batch = batch_of(spec.optim, wanted, replicas)
    if isinstance(batch, Problem):
        problems.append(batch)
    if problems or isinstance(batch, Problem):
        return problems
    return Layout(
        strategy="ddp" if count > 1 else "single",
        accelerator=kind,
        device_indices=indices,
        dp_replicate=replicas,
        micro_batch=batch[0],
        accumulation=batch[1],
        precision=wanted.precision,
        threads_per_worker=wanted.threads_per_worker or (max(1, machine.cpu_cores // count) if kind == "cpu" else None),
    )


def _device_indices(wanted: LayoutSpec, kind: str, machine: Machine) -> tuple[int, ...] | Problem:
    slots = machine.slots(kind)
    what = "worker slots (one per core)" if kind == "cpu" else f"{kind} devices"
    if slots == 0:
        found = ", ".join(sorted({device.kind for device in machine.devices})) or "nothing"
        return Problem(
            field="layout.accelerator",
            message=f"this machine has no usable {kind} device",
            hint=f'found: {found}; set layout.accelerator = "auto", and see `traindeck devices`',
        )
    present = tuple(range(slots)) if kind == "cpu" else tuple(device.index for device in machine.of_kind(kind))
    if wanted.devices is None:
        alone = wanted.strategy == "single" or (kind == "cpu" and wanted.strategy != "ddp")
        return present[:1] if alone else present
    if isinstance(wanted.devices, int):
        if wanted.devices > len(present):
            return Problem(
                field="layout.devices",
                message=f"{wanted.devices} devices are asked for, and this machine has {len(present)} {what}",
                hint=f"use at most {len(present)}",
            )
        return present[: wanted.devices]
    missing = [index for index in wanted.devices if index not in present]
    if missing:
        return Problem(
            field="layout.devices",
            message=f"there is no device {', '.join(map(str, missing))} among the {what}",
            hint="present: " + ", ".join(map(str, present)),
        )
    return wanted.devices
