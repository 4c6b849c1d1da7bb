"""Every layout that a number of ranks can have: what the tests of equivalence go through."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import get_args

from engine.contract.batching import batch_of
from engine.contract.layout import Layout, described
from engine.contract.limits import divisors
from engine.contract.pipelines import SPLIT_BACKWARD, even_stages, usual_virtual_stages, virtual_stages_problem
from engine.contract.placing import AXES
from engine.contract.shape import ModelShape
from engine.contract.spec import LayoutSpec, OptimSpec, Schedule
from engine.contract.splitting import split_problems

Pipeline = tuple[Schedule | None, int, tuple[int, ...] | None]


def possible_layouts(world_size: int, shape: ModelShape, sequence_length: int, batch_size: int) -> list[Layout]:
    """All layouts of ``world_size`` CPU ranks that can train ``shape`` on steps of ``batch_size`` sequences.

    Every way to share the ranks out over the five axes; with a pipeline each schedule, with its usual stages and with
    uneven ones; with sharding ZeRO-2 and ZeRO-3; with more data ranks than one equal and unequal micro-batches. Steps
    accumulate wherever the batch allows it.
    """
    return [
        layout
        for sizes in _factorisations(world_size)
        for pipeline in _pipelines(shape, sizes["pp"])
        for layout in _variants(sizes, pipeline, batch_size)
        if not split_problems(shape, layout, sequence_length)
    ]


def _factorisations(world_size: int) -> Iterator[dict[str, int]]:
    """Every assignment of sizes to the axes that multiplies to ``world_size``."""

    def rest(axes: tuple[str, ...], left: int) -> Iterator[dict[str, int]]:
        if len(axes) == 1:
            yield {axes[0]: left}
            return
        for size in divisors(left, left):
            for others in rest(axes[1:], left // size):
                yield {axes[0]: size, **others}

    yield from rest(AXES, world_size)


def _pipelines(shape: ModelShape, pp: int) -> Iterator[Pipeline]:
    if pp == 1:
        yield None, 1, None
        return
    for schedule in get_args(Schedule):
        for virtual in sorted({usual_virtual_stages(schedule), 2}):
            count = pp * virtual
            if virtual_stages_problem(schedule, virtual) is not None or count > shape.layers:
                continue
            even = even_stages(shape.layers, count, shape.layer_groups)
            yield schedule, virtual, even
            uneven = (even[0] + 1, *even[1:-1], even[-1] - 1)
            if uneven[-1] > 0:
                yield schedule, virtual, uneven


def _variants(sizes: dict[str, int], pipeline: Pipeline, batch_size: int) -> Iterator[Layout]:
    schedule, virtual, stages = pipeline
    data_ranks = sizes["dp_replicate"] * sizes["dp_shard"]
    steps = _accumulation(schedule, sizes["pp"], data_ranks, batch_size)
    if steps is None:
        return
    micro = batch_size // data_ranks // steps
    shares: list[tuple[int, ...] | None] = [None]
    if data_ranks > 1 and micro > 1:
        shares.append((micro + 1, *(micro,) * (data_ranks - 2), micro - 1))
    for reshard in _reshards(schedule, sizes["dp_shard"]):
        name = described(sizes)
        for share in shares:
            yield Layout(
                strategy="zero2" if name == "fsdp" and not reshard else name,
                accelerator="cpu",
                device_indices=tuple(range(prod(sizes.values()))),
                pp=sizes["pp"],
                dp_replicate=sizes["dp_replicate"],
                dp_shard=sizes["dp_shard"],
                cp=sizes["cp"],
                tp=sizes["tp"],
                schedule=schedule,
                virtual_stages=virtual,
                stages=stages,
                micro_batch=max(share or (micro,)),
                micro_batches=share,
                accumulation=steps,
                reshard=reshard,
                precision="fp32",
                threads_per_worker=1,
            )


def _reshards(schedule: Schedule | None, dp_shard: int) -> tuple[bool, ...]:
    if dp_shard == 1:
        return (True,)
    return (False,) if schedule in SPLIT_BACKWARD else (True, False)


def _accumulation(schedule: Schedule | None, pp: int, data_ranks: int, batch_size: int) -> int | None:
    """The fewest micro-batches, at least two, that ``schedule`` takes and that make up the batch; None if none do."""
    optim = OptimSpec(batch_size=batch_size)
    for steps in divisors(batch_size, batch_size)[1:]:
        if not isinstance(batch_of(optim, LayoutSpec(accumulation=steps), data_ranks, schedule, pp), tuple):
            continue
        if steps >= pp:
            return steps
    return None


def name_of(layout: Layout) -> str:
    """A layout in one word, different for each of :func:`possible_layouts`."""
    axes = [f"{axis}{size}" for axis in AXES if (size := getattr(layout, axis)) > 1]
    if layout.schedule is not None:
        axes.append(f"{layout.schedule}[{','.join(map(str, layout.stages or ()))}]")
    if layout.dp_shard > 1 and not layout.reshard:
        axes.append("zero2")
    if layout.micro_batches is not None:
        axes.append(f"micro{','.join(map(str, layout.micro_batches))}")
    return " ".join(axes) or "single"
