"""Consecutive measurements of a training as columns: a long file is folded in a fraction of the time."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from engine.contract.events import Train
from tui.series import NAN

TRAIN_COLUMNS = ("train_loss", "lr", "grad_norm", "tokens_per_second", "step_seconds")


@dataclass(frozen=True, slots=True)
class TrainBlock:
    """Consecutive :class:`Train` events as columns: folded at once, however many they are."""

    axes: tuple[array[float], array[float], array[float]]
    """Steps (ascending), tokens, trained seconds."""
    columns: tuple[array[float], ...]
    """In the order of ``TRAIN_COLUMNS``."""
    last: Train

    @classmethod
    def of(cls, events: list[Train]) -> TrainBlock:
        def column(values: list[float | None]) -> array[float]:
            return array("d", [NAN if value is None else value for value in values])

        return cls(
            axes=(
                column([event.step for event in events]),
                array("d", [event.tokens for event in events]),
                array("d", [event.elapsed_seconds for event in events]),
            ),
            columns=(
                column([event.loss for event in events]),
                array("d", [event.lr for event in events]),
                column([event.grad_norm for event in events]),
                array("d", [event.tokens_per_second for event in events]),
                array("d", [event.step_seconds for event in events]),
            ),
            last=events[-1],
        )
