"""The rules of pipelines: which schedules there are, what they ask for, and which layers make a stage.

The limits are those of the schedules in ``torch.distributed.pipelining``, no stricter and no laxer.
"""

from __future__ import annotations

from itertools import accumulate

from engine.contract.errors import Problem
from engine.contract.limits import divisors
from engine.contract.shape import ModelShape
from engine.contract.spec import LayoutSpec, Schedule

DEFAULT_SCHEDULE: Schedule = "1f1b"
SPLIT_BACKWARD: frozenset[Schedule] = frozenset({"zero-bubble", "zero-bubble-v"})
"""Schedules that compute the gradients of activations and of weights apart from each other."""
_INTERLEAVING: frozenset[Schedule] = frozenset({"interleaved-1f1b", "zero-bubble", "zero-bubble-v"})
_USUAL_VIRTUAL_STAGES: dict[Schedule, int] = {"interleaved-1f1b": 2, "zero-bubble-v": 2}


def usual_virtual_stages(schedule: Schedule) -> int:
    """Stages of one rank where nothing is said: what makes the schedule what it is."""
    return _USUAL_VIRTUAL_STAGES.get(schedule, 1)


def virtual_stages_problem(schedule: Schedule, virtual_stages: int) -> Problem | None:
    """Why a rank cannot have so many stages under ``schedule``; None if it can."""
    if schedule == "zero-bubble-v" and virtual_stages != 2:
        message = f"zero-bubble-v gives each rank 2 stages, not {virtual_stages}"
        return Problem(field="layout.virtual_stages", message=message, hint="leave virtual_stages out")
    if schedule not in _INTERLEAVING and virtual_stages != 1:
        return Problem(
            field="layout.virtual_stages",
            message=f"{schedule} gives each rank 1 stage, not {virtual_stages}",
            hint='leave virtual_stages out, or set layout.schedule = "interleaved-1f1b"',
        )
    return None


def takes_micro_batches(schedule: Schedule | None, pp: int, count: int) -> bool:
    """Whether a step of ``count`` micro-batches can be run by ``schedule`` on ``pp`` ranks (None: no pipeline).

    1F1B wants every stage busy at once (``Schedule1F1B``); the interleaved ones work in ``max(1, count // pp)`` rounds
    of equal length (``ScheduleInterleaved1F1B``, ``ScheduleInterleavedZeroBubble``); the others take any number.
    """
    if count < 1:
        return False
    if schedule == "1f1b":
        return count >= pp
    if schedule in {"interleaved-1f1b", "zero-bubble"}:
        return count % max(1, count // pp) == 0
    return True


def micro_batches_wanted(schedule: Schedule, pp: int) -> str:
    """What :func:`takes_micro_batches` asks for, in words."""
    if schedule == "1f1b":
        return f"at least {pp} micro-batches a step, one for each stage"
    return f"micro-batches in rounds of equal length, such as {pp}, {2 * pp} or {3 * pp} a step"


def busy_accumulation(schedule: Schedule | None, pp: int, per_rank: int, largest_micro_batch: int) -> int | None:
    """Into how many micro-batches to cut ``per_rank`` sequences where nothing is said; None if no number will do.

    Two for each stage keep the bubble below a third of the step ((p - 1) / (m + p - 1), Narayanan et al. 2021); among
    those, the largest micro-batch up to ``largest_micro_batch``. Too small a batch gets as many as it has.
    """
    fitting = [
        per_rank // micro
        for micro in divisors(per_rank, largest_micro_batch)
        if takes_micro_batches(schedule, pp, per_rank // micro)
    ]
    enough = [count for count in fitting if pp == 1 or count >= 2 * pp]
    return min(enough) if enough else max(fitting, default=None)


def even_stages(layers: int, stages: int, weight_sets: int | None = None) -> tuple[int, ...]:
    """Layers of each stage, as even as possible; the later ones get the smaller share, for the last has the head.

    Layers that share a set of weights stay together where there are enough sets.
    """
    sets = weight_sets or layers
    if sets < stages:
        sets = layers
    ends = [-(-number * layers // sets) for number in range(sets + 1)]  # set k uses the layers from ends[k] on
    share, more = divmod(sets, stages)
    bounds = [0, *accumulate(share + (number < more) for number in range(stages))]
    return tuple(ends[bounds[number + 1]] - ends[bounds[number]] for number in range(stages))


def stage_problems(wanted: LayoutSpec, layers: int, pp: int, virtual_stages: int) -> list[Problem]:
    """Why ``layers`` cannot be laid out over the stages that are asked for."""
    count = pp * virtual_stages
    spelled = f"pp = {pp}" + (f" with {virtual_stages} virtual stages each" if virtual_stages > 1 else "")
    if count > layers:
        field = "layout.virtual_stages" if wanted.virtual_stages and pp <= layers else "layout.pp"
        most = layers // virtual_stages
        hint = f"use at most pp = {most}, or a deeper model" if most > 1 else "a deeper model has more to share out"
        return [Problem(field=field, message=f"{layers} layers do not fill {count} stages ({spelled})", hint=hint)]
    if wanted.stages is None:
        return []
    hint = f"leave stages out, which makes {list(even_stages(layers, count))}"
    if len(wanted.stages) != count:
        message = f"{len(wanted.stages)} stages are listed, and {spelled} makes {count}"
    elif sum(wanted.stages) != layers:
        message = f"{' + '.join(map(str, wanted.stages))} is {sum(wanted.stages)} layers, and the model has {layers}"
    else:
        return []
    return [Problem(field="layout.stages", message=_shortened(message), hint=_shortened(hint))]


def _shortened(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:120]} ... {text[-70:]}"


def first_layers(stages: tuple[int, ...]) -> tuple[int, ...]:
    """The number of the first layer of each stage."""
    return tuple(accumulate(stages[:-1], initial=0))


def torn_weights(shape: ModelShape, stages: tuple[int, ...]) -> list[int]:
    """The first layers of those stages that begin within a set of layers which share their weights."""
    return [first for first in first_layers(stages)[1:] if shape.weights_of(first - 1) == shape.weights_of(first)]
