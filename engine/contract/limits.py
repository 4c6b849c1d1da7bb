"""How large the counts of a spec may be: past these sizes no arithmetic on them is worth doing."""

from __future__ import annotations

import math

import msgspec

from engine.contract.errors import Problem
from engine.contract.spec import RunSpec

LARGEST_COUNT = 2**53
"""Of what is only counted: steps, tokens, documents."""
LARGEST = {
    "data.sequence_length": 2**24,
    "tokenizer.vocabulary": 2**20,
    "model.vocabulary": 2**24,
    "model.positions": 2**24,
    "model.layers": 2**14,
    "model.layer_groups": 2**14,
    "model.hidden": 2**20,
    "model.heads": 2**16,
    "model.kv_heads": 2**16,
    "model.head_size": 2**16,
    "model.feed_forward": 2**22,
    "optim.batch_size": 2**20,
    "layout.pp": 2**20,
    "layout.dp_replicate": 2**20,
    "layout.dp_shard": 2**20,
    "layout.cp": 2**20,
    "layout.tp": 2**20,
    "layout.virtual_stages": 2**14,
    "layout.stages": 2**14,
    "layout.micro_batch": 2**20,
    "layout.micro_batches": 2**20,
    "layout.accumulation": 2**20,
    "layout.checkpoint_every": 2**14,
    "layout.loss_chunks": 2**24,
    "layout.devices": 2**20,
    "layout.threads_per_worker": 2**16,
}


def without_too_large(spec: RunSpec) -> tuple[RunSpec, list[Problem]]:
    """``spec`` with the default in the place of every whole number out of all proportion, and a problem for each."""
    problems: list[Problem] = []
    whole, too_large = _within("", spec, RunSpec(), problems)
    for section in spec.__struct_fields__:
        part = getattr(spec, section)
        if isinstance(part, msgspec.Struct):
            kept, changed = _within(f"{section}.", part, getattr(RunSpec(), section), problems)
            if changed:
                whole, too_large = msgspec.structs.replace(whole, **{section: kept}), True
    assert isinstance(whole, RunSpec)
    return (whole if too_large else spec), problems


def _within(
    prefix: str, part: msgspec.Struct, default: msgspec.Struct, problems: list[Problem]
) -> tuple[msgspec.Struct, bool]:
    changes = {}
    for name in part.__struct_fields__:
        value, field = getattr(part, name), prefix + name
        most = LARGEST.get(field, LARGEST_COUNT)
        numbers = [number for number in (value if isinstance(value, tuple) else (value,)) if type(number) is int]
        outside = next((number for number in numbers if abs(number) > most), None)
        if field != "seed" and outside is not None:
            shown = f"{outside}" if abs(outside) < 10**20 else "a number of more than 20 digits"
            message = f"must be at most {most}, not {shown}" if outside > 0 else f"must not be negative, as {shown} is"
            problems.append(Problem(field=field, message=message))
            changes[name] = getattr(default, name)
    return (msgspec.structs.replace(part, **changes) if changes else part), bool(changes)


def divisors(number: int, largest: int) -> list[int]:
    """The divisors of ``number`` that are at most ``largest``, ascending."""
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return [n for n in sorted({*small, *(number // n for n in small)}) if n <= largest]
