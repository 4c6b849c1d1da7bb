"""What a spec will cost on a machine: its layout, its memory against what is free, its length.

Fast enough to be asked at every keystroke, and free of torch. Time is not predicted in this version.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from engine.contract.check import check
from engine.contract.errors import Problem, SpecError
from engine.contract.layout import Layout, resolve_layout
from engine.contract.limits import divisors, without_too_large
from engine.contract.machine import Machine
from engine.contract.mesh import seat
from engine.contract.pipelines import even_stages, takes_micro_batches
from engine.contract.presets import PRESETS, resolve_shape
from engine.contract.shape import ModelShape
from engine.contract.source import STDLIB
from engine.contract.spec import RunSpec
from engine.contract.splitting import split_problems
from engine.planner.memory import MemoryEstimate, estimate_memory, memory_of_ranks
from engine.planner.shapes import flops_per_token, parameter_count
from engine.planner.vocabulary import expected_vocabulary

_DECIDING = ("model.", "layout.", "tokenizer.", "optim.batch_size", "data.sequence_length")
"""Fields without which there is nothing to estimate; a missing budget or a bad learning rate do not matter here."""


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a training before it runs. Unknown is None."""

    spec: RunSpec
    layout: Layout
    shape: ModelShape
    parameters: int
    """Exact for this vocabulary."""
    memory: MemoryEstimate
    """Of the device that needs most (on the CPU: of the worker)."""
    memory_bytes: tuple[int, ...]
    """In all, of each rank."""
    needed_bytes: int
    """In the place that ``available_bytes`` speaks of: one device, or the host for all workers on the CPU."""
    available_bytes: int | None
    """Free now on the chosen device with the least to spare, or on the host; other hosts are taken to be like it."""
    where: str
    """That place in words: ``device 0``, ``this machine``."""
    fits: bool | None
    """None when it is not known how much is free."""
    steps: int | None
    """How many steps the budget allows at most; None when it is limited by time or epochs alone."""
    tokens_per_step: int
    tokens_total: int | None
    """``steps`` times ``tokens_per_step``."""
    flops_per_token: float
    assumptions: tuple[str, ...]
    """What was taken for granted because it is not known yet, in words."""


def estimate(spec: RunSpec, machine: Machine, vocabulary: int | None = None) -> Estimate:
    """The estimate for ``spec`` on ``machine``; ``vocabulary`` where the tokenizer is already known.

    Raises SpecError with all problems that leave no layout or no network to speak of.
    """
    # The text is not looked at: a large folder would be walked through at every keystroke.
    blind = msgspec.structs.replace(spec, data=msgspec.structs.replace(spec.data, source=STDLIB, format="auto"))
    problems = [problem for problem in check(blind, machine) if problem.field.startswith(_DECIDING)]
    if problems:
        raise SpecError(problems)
    spec, _ = without_too_large(spec)
    layout = resolve_layout(spec, machine)
    if isinstance(layout, list):
        raise SpecError(layout)
    assumption = None
    if vocabulary is None:
        vocabulary, assumption = expected_vocabulary(spec.tokenizer)
    if spec.model.vocabulary is not None:
        assumption = None
    shape = resolve_shape(spec.model, vocabulary=vocabulary, sequence_length=spec.data.sequence_length)
    problems = split_problems(shape, layout, spec.data.sequence_length)
    if assumption is not None:  # a vocabulary that is only guessed need not divide
        problems = [problem for problem in problems if problem.field != "model.vocabulary"]
    if problems:
        raise SpecError(problems)
    memories = memory_of_ranks(shape, layout, spec.optim, spec.data.sequence_length)
    memory = max(memories, key=lambda each: each.total_bytes)
    needed, available, where = _scarcest(memories, layout, machine)
    tokens_per_step = layout.batch_size * spec.data.sequence_length
    steps = _steps(spec, tokens_per_step)
    return Estimate(
        spec=spec,
        layout=layout,
        shape=shape,
        parameters=parameter_count(shape),
        memory=memory,
        memory_bytes=tuple(each.total_bytes for each in memories),
        needed_bytes=needed,
        available_bytes=available,
        where=where,
        fits=None if available is None else needed <= available,
        steps=steps,
        tokens_per_step=tokens_per_step,
        tokens_total=None if steps is None else steps * tokens_per_step,
        flops_per_token=flops_per_token(shape, spec.data.sequence_length),
        assumptions=() if assumption is None else (assumption,),
    )


def fit_problems(estimate: Estimate) -> list[Problem]:
    """Why it does not fit and the cheapest change that makes it fit; empty if it fits or that is not known."""
    if estimate.fits is not False:
        return []
    micro = largest_micro_batch(estimate)
    if micro is not None:
        layout = _with_micro_batch(estimate.layout, micro)
        hint = f"set layout.micro_batch = {micro}, which accumulates {layout.accumulation} for the same batch"
        return [Problem(field="layout.micro_batch", message=_shortage(estimate), hint=hint)]
    for field, hint, layout in _levers(estimate.layout, estimate.shape):
        if _would_fit(estimate, estimate.shape, layout):
            return [Problem(field=field, message=_shortage(estimate), hint=hint)]
    preset = largest_preset(estimate)
    if preset is None:
        hint = "shorten data.sequence_length, or free memory (see `traindeck devices`)"
    else:
        name, micro = preset
        smaller = "" if micro == estimate.layout.micro_batch else f", with layout.micro_batch = {micro}"
        hint = f"the largest {estimate.shape.family} preset that fits here is {name!r}{smaller}"
    return [Problem(field="model.preset", message=_shortage(estimate), hint=hint)]


def _levers(layout: Layout, shape: ModelShape) -> Iterator[tuple[str, str, Layout]]:
    """``(field, hint, layout)``: changes of the layout alone that save memory, the cheapest in time first."""
    smallest = _with_micro_batch(layout, 1)
    also = "" if layout.micro_batch == 1 else " and layout.micro_batch = 1"
    again = shape.family != "lstm" and layout.checkpointing != "full"
    if again:
        full = msgspec.structs.replace(smallest, checkpointing="full", checkpoint_every=1)
        yield "layout.checkpointing", f'set layout.checkpointing = "full"{also}', full
    if layout.dp_replicate > 1:
        size = layout.dp_replicate * layout.dp_shard
        shards = msgspec.structs.replace(smallest, strategy="fsdp", dp_replicate=1, dp_shard=size, reshard=True)
        yield "layout.strategy", f'set layout.strategy = "fsdp"{also}', shards
        if again:
            shards = msgspec.structs.replace(shards, checkpointing="full", checkpoint_every=1)
            yield "layout.strategy", f'set layout.strategy = "fsdp", layout.checkpointing = "full"{also}', shards


def largest_micro_batch(estimate: Estimate) -> int | None:
    """The largest smaller micro-batch that fits with the same batch size; None if none does."""
    layout = estimate.layout
    if layout.micro_batches is not None:
        return None
    per_rank = layout.micro_batch * layout.accumulation
    for micro in reversed(divisors(per_rank, layout.micro_batch - 1)):
        runs = takes_micro_batches(layout.schedule, layout.pp, per_rank // micro)
        if runs and _would_fit(estimate, estimate.shape, _with_micro_batch(estimate.layout, micro)):
            return micro
    return None


def largest_preset(estimate: Estimate) -> tuple[str, int] | None:
    """``(name, micro_batch)`` of the largest smaller preset of the same family that fits; None if none does.

    The micro-batch is the layout's own if the preset fits with that, else 1. Dimensions that the spec itself gives
    are not counted with the preset's.
    """
    free = msgspec.structs.replace(
        estimate.spec.model, family=None, layers=None, hidden=None, heads=None, kv_heads=None, head_size=None,
        feed_forward=None,
    )  # fmt: skip
    layouts = [estimate.layout, _with_micro_batch(estimate.layout, 1)]
    found: list[tuple[int, str, int]] = []
    for name, preset in PRESETS.items():
        if preset.family != estimate.shape.family:
            continue
        shape = resolve_shape(
            msgspec.structs.replace(free, preset=name),
            vocabulary=estimate.shape.vocabulary,
            sequence_length=estimate.spec.data.sequence_length,
        )
        count = parameter_count(shape)
        fitting = (layout.micro_batch for layout in layouts if _runs(estimate, shape, layout))
        micro = next(fitting, None)
        if count < estimate.parameters and micro is not None:
            found.append((count, name, micro))
    return max(found)[1:] if found else None


def _runs(estimate: Estimate, shape: ModelShape, layout: Layout) -> bool:
    """Whether another shape can be cut so too, into even stages, and fits."""
    if layout.stages is not None and shape.layers >= len(layout.stages):
        stages = even_stages(shape.layers, len(layout.stages), shape.layer_groups)
        layout = msgspec.structs.replace(layout, stages=stages)
    if split_problems(shape, layout, estimate.spec.data.sequence_length):
        return False
    return _would_fit(estimate, shape, layout)


def plan_object(estimate: Estimate) -> dict[str, Any]:
    """The object of ``traindeck plan --json``. What this version does not predict is None."""
    layout = estimate.layout
    return {
        "optimal": None,
        "gap": None,
        "evaluated": 1,
        "feasible": None if estimate.fits is None else int(estimate.fits),
        "seconds": None,
        "plans": [
            {
                "layout": {
                    "pp": layout.pp,
                    "dp_replicate": layout.dp_replicate,
                    "dp_shard": layout.dp_shard,
                    "cp": layout.cp,
                    "tp": layout.tp,
                    "strategy": layout.strategy,
                    "schedule": layout.schedule,
                    "virtual_stages": layout.virtual_stages,
                    "stages": None if layout.stages is None else list(layout.stages),
                    "micro_batch": layout.micro_batch,
                    "micro_batches": None if layout.micro_batches is None else list(layout.micro_batches),
                    "accumulation": layout.accumulation,
                    "reshard": layout.reshard,
                    "checkpointing": layout.checkpointing,
                    "checkpoint_every": layout.checkpoint_every,
                    "loss_chunks": layout.loss_chunks,
                    "offload_optimizer": layout.offload_optimizer,
                    "precision": layout.precision,
                },
                "fits": estimate.fits,
                "runnable": True,
                "memory_bytes": list(estimate.memory_bytes),
                "step_seconds": None,
                "tokens_per_second": None,
                "interval": None,
                "mfu": None,
                "lost_because": _shortage(estimate) if estimate.fits is False else None,
            }
        ],
    }


def _scarcest(memories: Sequence[MemoryEstimate], layout: Layout, machine: Machine) -> tuple[int, int | None, str]:
    """``(needed, available, where)``: in the place with the least to spare, in words."""
    each = layout.devices_per_host
    hosts = [memories[first : first + each] for first in range(0, layout.world_size, each)]
    on_host = max(sum(memory.host_bytes for memory in host) for host in hosts)
    if layout.accelerator != "cuda":
        # An Apple GPU computes in the memory of the host, as the CPU does.
        needed = max(sum(memory.total_bytes for memory in host) for host in hosts)
        return needed, machine.memory_available_bytes, "this machine"
    most: dict[int, int] = {}
    for rank, memory in enumerate(memories):
        index = seat(layout, rank).device
        most[index] = max(most.get(index, 0), memory.total_bytes)
    places: list[tuple[int, int, str]] = []
    for device in machine.of_kind("cuda"):
        if device.index in most:
            if device.memory_total_bytes is None or device.memory_used_bytes is None:
                return most[device.index], None, f"device {device.index}"
            free = device.memory_total_bytes - device.memory_used_bytes
            places.append((most[device.index], free, f"device {device.index}"))
    if on_host and machine.memory_available_bytes is not None:
        places.append((on_host, machine.memory_available_bytes, "the host, for the optimiser's state"))
    if not places:
        return max(most.values()), None, "the devices"
    return min(places, key=lambda place: place[1] - place[0])


def _would_fit(estimate: Estimate, shape: ModelShape, layout: Layout) -> bool:
    """By the rank that needs most, on the scarcest device."""
    memory = estimate_memory(shape, layout, estimate.spec.optim, estimate.spec.data.sequence_length)
    workers = layout.devices_per_host if layout.accelerator == "cpu" else 1
    needed = memory.host_bytes if estimate.where.startswith("the host") else memory.total_bytes
    return estimate.available_bytes is not None and needed * workers <= estimate.available_bytes


def _with_micro_batch(layout: Layout, micro: int) -> Layout:
    per_rank = layout.micro_batch * layout.accumulation
    return msgspec.structs.replace(layout, micro_batch=micro, micro_batches=None, accumulation=per_rank // micro)


def _steps(spec: RunSpec, tokens_per_step: int) -> int | None:
    limits = [spec.budget.max_steps]
    if spec.budget.max_tokens is not None:
        limits.append(-(-spec.budget.max_tokens // tokens_per_step))
    return min((limit for limit in limits if limit is not None), default=None)


def _shortage(estimate: Estimate) -> str:
    needed, available = f"{estimate.needed_bytes / 2**30:.1f}", f"{(estimate.available_bytes or 0) / 2**30:.1f}"
    if needed == available:
        needed, available = f"{estimate.needed_bytes / 2**30:.3f}", f"{(estimate.available_bytes or 0) / 2**30:.3f}"
    return f"needs {needed} GiB of {available} GiB available on {estimate.where}"
