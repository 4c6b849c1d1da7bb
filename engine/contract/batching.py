"""How the batch of a step is cut into micro-batches."""

from __future__ import annotations

from engine.contract.errors import Problem
from engine.contract.limits import divisors
from engine.contract.pipelines import busy_accumulation, micro_batches_wanted, takes_micro_batches
from engine.contract.spec import LayoutSpec, OptimSpec, Schedule

DEFAULT_BATCH_SIZE = 32
LARGEST_DEFAULT_MICRO_BATCH = 8


def batch_of(
    optim: OptimSpec, layout: LayoutSpec, data_ranks: int, schedule: Schedule | None = None, pp: int = 1
) -> tuple[tuple[int, ...], int] | Problem:
    """``(micro_batches, accumulation)``: sequences of each data rank's micro-batch, and how many there are in a step.

    Their sum times the accumulation is the batch size, and ``schedule`` can run as many micro-batches on ``pp`` ranks.
    Senseless numbers count as not given: they are problems of their own.
    """
    micro, steps, batch = (
        number if number is not None and number >= 1 else None
        for number in (layout.micro_batch, layout.accumulation, optim.batch_size)
    )
    if layout.micro_batches:
        found = _uneven(layout.micro_batches, data_ranks, steps, batch, pp)
    else:
        found = _even(layout, data_ranks, (micro, steps, batch), schedule, pp)
    if isinstance(found, Problem):
        return found
    if not takes_micro_batches(schedule, pp, found[1]):
        assert schedule is not None
        return _wrong_count(layout, schedule, pp, sum(found[0]) * found[1], found[1])
    return found


def _uneven(
    micro_batches: tuple[int, ...], data_ranks: int, steps: int | None, batch: int | None, pp: int
) -> tuple[tuple[int, ...], int] | Problem:
    """The shares that a person gave to the data ranks."""
    if len(micro_batches) != data_ranks:
        listed = f"{len(micro_batches)} micro-batch{'es are' if len(micro_batches) > 1 else ' is'} listed"
        ranks = f"{data_ranks} data rank{'s' if data_ranks > 1 else ''} (dp_replicate x dp_shard)"
        return Problem(
            field="layout.micro_batches", message=f"{listed} for {ranks}", hint="give one number for each data rank"
        )
    together = sum(micro_batches)
    if together < 1:
        return Problem(field="layout.micro_batches", message="the micro-batches are empty", hint="give positive counts")
    if batch is None:
        return micro_batches, steps or (2 * pp if pp > 1 else 1)
    if batch % together or steps not in {None, batch // together}:
        shown = f"{together} sequences" if steps is None else f"{together} sequences x {steps} accumulated"
        lower = max(batch - batch % together, together)
        hint = f"set optim.batch_size = {lower if steps is None else together * steps}, or leave it out"
        message = f"{shown} in micro-batches of all ranks do not make the batch size {batch}"
        return Problem(field="layout.micro_batches", message=message, hint=hint)
    return micro_batches, batch // together


def _even(
    layout: LayoutSpec,
    data_ranks: int,
    given: tuple[int | None, int | None, int | None],
    schedule: Schedule | None,
    pp: int,
) -> tuple[tuple[int, ...], int] | Problem:
    """The same micro-batch for each data rank; ``given`` is micro-batch, accumulation, batch size."""
    micro, steps, batch = given
    if batch is None and (micro is not None or steps is not None):
        return (micro or 1,) * data_ranks, steps or (2 * pp if pp > 1 else 1)
    if batch is None:
        # Nothing was asked for, so nothing may be refused: three devices take 30 sequences, and every stage gets some.
        batch = max(DEFAULT_BATCH_SIZE - DEFAULT_BATCH_SIZE % data_ranks, data_ranks)
        if not _fills(schedule, pp, batch // data_ranks):
            batch = 2 * pp * data_ranks
    if batch % data_ranks:
        lower = max(batch - batch % data_ranks, data_ranks)
        return Problem(
            field="optim.batch_size",
            message=f"{batch} sequences do not divide among {data_ranks} data-parallel devices",
            hint=f"use {lower} or {batch - batch % data_ranks + data_ranks}",
        )
    per_rank = batch // data_ranks
    if micro is None and steps is None:
        steps = busy_accumulation(schedule, pp, per_rank, LARGEST_DEFAULT_MICRO_BATCH) or per_rank
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
    return (micro,) * data_ranks, steps


def _fills(schedule: Schedule | None, pp: int, per_rank: int) -> bool:
    return pp == 1 or (busy_accumulation(schedule, pp, per_rank, LARGEST_DEFAULT_MICRO_BATCH) or 0) >= 2 * pp


def _remedy(layout: LayoutSpec, micro: int, per_rank: int) -> str:
    """What to change where micro-batch and accumulation do not make the batch of one device."""
    if layout.accumulation is None and micro > 0 and per_rank > 0:
        fitting = divisors(per_rank, micro)[-1]
        return f"use {fitting}, or leave batch_size out"
    return "leave accumulation or batch_size out, and it follows from the others"


def _wrong_count(layout: LayoutSpec, schedule: Schedule, pp: int, batch: int, count: int) -> Problem:
    """More or fewer micro-batches than the schedule can run, with the nearest numbers that it can."""
    message = f"{count} micro-batch{'es' if count > 1 else ''} a step, and {schedule} wants "
    message += micro_batches_wanted(schedule, pp)
    if layout.accumulation is not None:
        below = next((n for n in range(count - 1, 0, -1) if takes_micro_batches(schedule, pp, n)), None)
        above = next(n for n in range(count + 1, count + 2 * pp + 2) if takes_micro_batches(schedule, pp, n))
        numbers = f"{below} or {above}" if below else f"{above}"
        return Problem(field="layout.accumulation", message=message, hint=f"use {numbers}")
    if layout.micro_batch is not None and not layout.micro_batches:
        whole = layout.micro_batch * count
        fitting = [n for n in divisors(whole, layout.micro_batch) if takes_micro_batches(schedule, pp, whole // n)]
        if fitting:
            return Problem(field="layout.micro_batch", message=message, hint=f"use {fitting[-1]}")
    right = next(n for n in range(count, count + 2 * pp + 2) if takes_micro_batches(schedule, pp, n))
    return Problem(field="optim.batch_size", message=message, hint=f"set optim.batch_size = {batch // count * right}")
