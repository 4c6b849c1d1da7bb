"""From what a person asked (``LayoutSpec``) to the layout that runs, on a given machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from engine.contract.batching import batch_of
from engine.contract.errors import Problem
from engine.contract.machine import Machine
from engine.contract.pipelines import (
    DEFAULT_SCHEDULE,
    SPLIT_BACKWARD,
    even_stages,
    stage_problems,
    usual_virtual_stages,
    virtual_stages_problem,
)
from engine.contract.placing import device_indices, solve_axes
from engine.contract.presets import resolve_shape, shape_problems
from engine.contract.spec import Checkpointing, LayoutSpec, Precision, RunSpec, Schedule, Strategy

ChosenStrategy = Literal["single", "ddp", "zero2", "fsdp", "hsdp", "tensor", "pipeline", "hybrid"]
_NAMES: Final[dict[tuple[str, ...], ChosenStrategy]] = {
    (): "single", ("dp_replicate",): "ddp", ("dp_shard",): "fsdp", ("dp_replicate", "dp_shard"): "hsdp",
    ("tp",): "tensor", ("pp",): "pipeline",
}  # fmt: skip
"""What the axes with more than one rank make; all else is hybrid."""
_NO_PIPELINE: Final[tuple[None, int, None]] = (None, 1, None)


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
    def devices_per_host(self) -> int:
        return len(self.device_indices)

    @property
    def samples_per_micro_batch(self) -> int:
        """Sequences of one micro-batch over all data ranks."""
        return sum(self.micro_batches) if self.micro_batches else self.micro_batch * self.data_ranks

    @property
    def batch_size(self) -> int:
        """Sequences per optimiser step over all devices."""
        return self.samples_per_micro_batch * self.accumulation


def resolve_layout(spec: RunSpec, machine: Machine) -> Layout | list[Problem]:
    """The layout that ``spec`` means on hosts like ``machine``, or every reason why there is none.

    Whether the network can be cut so is another question: :func:`engine.contract.splitting.split_problems`.
    """
    wanted = spec.layout
    accelerator = machine.accelerator() if wanted.accelerator == "auto" else wanted.accelerator
    kind = "cuda" if accelerator == "rocm" else accelerator
    problems = _precision_problems(wanted, kind)
    indices = device_indices(wanted, kind, machine)
    if isinstance(indices, Problem):
        return [*problems, indices]
    if kind == "mps" and len(indices) * len(wanted.hosts or ("",)) > 1:
        problems.append(
            Problem(field="layout.devices", message="an Apple GPU is one device", hint="set layout.devices = 1")
        )
    sizes = solve_axes(wanted, len(indices))
    if isinstance(sizes, list):
        return problems + sizes
    pipeline = _pipeline(spec, sizes["pp"])
    if isinstance(pipeline, list):
        problems += pipeline
        pipeline = _NO_PIPELINE
    schedule, virtual_stages, stages = pipeline
    if schedule is not None and wanted.precision == "fp16-mixed":
        problems.append(_no_scaler_in_a_pipeline())
    batch = batch_of(spec.optim, wanted, sizes["dp_replicate"] * sizes["dp_shard"], schedule, sizes["pp"])
    if isinstance(batch, Problem):
        problems.append(batch)
    if problems or isinstance(batch, Problem):
        return problems
    micro_batches, accumulation = batch
    return Layout(
        strategy=_named(wanted.strategy) or described(sizes),
        accelerator=kind,
        device_indices=indices,
        hosts=wanted.hosts,
        **sizes,
        schedule=schedule,
        virtual_stages=virtual_stages,
        stages=stages,
        micro_batch=max(micro_batches),
        micro_batches=micro_batches if len(set(micro_batches)) > 1 else None,
        accumulation=accumulation,
        # A split backward pass computes the weights' gradients after a layer's shards would have been given up.
        reshard=wanted.strategy != "zero2" and not (sizes["dp_shard"] > 1 and schedule in SPLIT_BACKWARD),
        checkpointing=wanted.checkpointing,
        checkpoint_every=wanted.checkpoint_every,
        loss_chunks=wanted.loss_chunks,
        offload_optimizer=wanted.offload_optimizer,
        precision=wanted.precision,
        threads_per_worker=_threads(wanted, machine, len(indices)) if kind == "cpu" else wanted.threads_per_worker,
    )


def _named(strategy: Strategy) -> ChosenStrategy | None:
    """The name that a person chose; None where it says nothing of what comes out."""
    return None if strategy == "auto" or strategy == "hybrid" else strategy  # noqa: PLR1714 - narrows the type


def described(sizes: Mapping[str, int]) -> ChosenStrategy:
    """The name of what the sizes of the axes make."""
    used = tuple(axis for axis, size in sizes.items() if size > 1)
    return _NAMES.get(used, "hybrid")


def _threads(wanted: LayoutSpec, machine: Machine, workers: int) -> int:
    return wanted.threads_per_worker or max(1, machine.cpu_cores // workers)


def _pipeline(spec: RunSpec, pp: int) -> tuple[Schedule | None, int, tuple[int, ...] | None] | list[Problem]:
    """``(schedule, virtual stages, stages)`` of a pipeline over ``pp`` ranks."""
    wanted = spec.layout
    if pp == 1:
        needless = [
            Problem(
                field=f"layout.{name}", message="there is no pipeline: pp is 1", hint=f"leave {name} out, or set pp"
            )
            for name in ("schedule", "stages", "virtual_stages")
            if getattr(wanted, name) not in {None, 1}
        ]
        return needless or _NO_PIPELINE
    schedule = wanted.schedule or DEFAULT_SCHEDULE
    virtual_stages = wanted.virtual_stages or usual_virtual_stages(schedule)
    if problem := virtual_stages_problem(schedule, virtual_stages):
        return [problem]
    if unknown := shape_problems(spec.model):
        return unknown
    shape = resolve_shape(spec.model, vocabulary=1, sequence_length=1)
    problems = stage_problems(wanted, shape.layers, pp, virtual_stages)
    if problems:
        return problems
    stages = wanted.stages or even_stages(shape.layers, pp * virtual_stages, shape.layer_groups)
    return schedule, virtual_stages, stages


def _precision_problems(wanted: LayoutSpec, kind: str) -> list[Problem]:
    if wanted.precision not in {"fp16-mixed", "fp8"} or kind == "cuda":
        return []
    why = "needs a CUDA device" if wanted.precision == "fp8" else "needs the loss scaling that is there for CUDA"
    message = f"{wanted.precision} {why}, and this layout is for {kind}"
    return [Problem(field="layout.precision", message=message, hint='choose "bf16-mixed" or "fp32"')]


def _no_scaler_in_a_pipeline() -> Problem:
    message = "fp16-mixed scales the loss, which the stages of a pipeline do not share"
    return Problem(field="layout.precision", message=message, hint='choose "bf16-mixed", or no pipeline')
