"""The parallel strategies as a person meets them: a name, a line of explanation, and the fields that belong to each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tui.fields import Field

STRATEGIES: Final[dict[str, str]] = {
    "auto": "whole copies on all GPUs, or one CPU process",
    "single": "one device holds and trains the whole model",
    "ddp": "a whole model each, and a part of the batch",
    "zero2": "gradients and optimiser state are sharded",
    "fsdp": "weights, gradients, optimiser state sharded",
    "hsdp": "sharded in groups, the groups are copies",
    "tensor": "every matrix is split over the devices",
    "pipeline": "each device has some of the layers",
    "hybrid": "any product of pp, dp, fsdp, cp and tp",
}
"""What each does, short enough for a line of a list."""
DECIDES: Final[dict[str, tuple[str, ...]]] = {
    "hsdp": ("dp_replicate", "dp_shard"),
    "tensor": ("tp",),
    "pipeline": ("pp", "schedule", "stages"),
    "hybrid": ("pp", "dp_replicate", "dp_shard", "cp", "tp"),
}
"""The fields of a layout that belong to a strategy; it needs none of the others."""
OF_ANY: Final[tuple[str, ...]] = (
    "pp", "schedule", "virtual_stages", "stages", "dp_replicate", "dp_shard", "cp", "tp", "micro_batches",
)  # fmt: skip
"""All fields of which each belongs to some strategies only."""


def belonging(strategy: str) -> tuple[str, ...]:
    """Dotted names of the fields that belong to ``strategy``; none for an unknown word."""
    return tuple(f"layout.{name}" for name in DECIDES.get(strategy, ()))


def help_words(field: Field, text: str) -> str:
    """What is said beside a field: its name and help, for the strategy also the line of the one that is chosen."""
    if field.name == "layout.strategy" and (line := STRATEGIES.get(text)):
        return f"{field.name}\n{text}: {line}.\n{field.help}"
    return f"{field.name}\n{field.help}"


class Sizes:
    """What was typed for each strategy: turned away from it is put aside, turned back it is there again."""

    def __init__(self) -> None:
        self._aside: dict[str, dict[str, str]] = {}

    def turn(self, texts: Mapping[str, str], old: str, new: str) -> dict[str, str]:
        """The texts to put in as the strategy changes from ``old`` to ``new``, by field; what fits both stays."""
        names = [f"layout.{name}" for name in OF_ANY]
        self._aside[old] = {name: texts[name] for name in names}
        before = self._aside.get(new, {})
        kept = belonging(new)
        wanted = {name: before.get(name, "") or (texts[name] if name in kept else "") for name in names}
        return {name: text for name, text in wanted.items() if text != texts[name]}
