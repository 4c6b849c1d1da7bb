"""How a run stands in a line of the list."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from engine.contract.states import LIVE
from tui.text import UNKNOWN, ascii_wanted, human_count, human_number, short_duration, state_symbol
from tui.widgets.glyphs import state_tone
from tui.widgets.table import Cell, Column, Row

if TYPE_CHECKING:
    from engine.runs.status import RunStatus
    from tui.screens.runs import Described

COLUMNS = (
    Column(title="State", width=10),
    Column(title="Name", width=12, flexible=True),
    Column(title="Model", width=13, rank=4),
    Column(title="Data", width=13, rank=5),
    Column(title="Step", width=12, right=True),
    Column(title="Loss", width=6, right=True),
    Column(title="Val ppl", width=7, right=True),
    Column(title="tok/s", width=7, right=True),
    Column(title="ETA", width=7, right=True, rank=1),
    Column(title="Age", width=5, right=True, rank=3),
)


def row_of(run: RunStatus, described: Described | None, now: float) -> Row:
    """The line of ``run``; ``now`` in seconds since the epoch."""
    live = run.state in LIVE
    return Row(
        run.run,
        (
            Cell(f"{state_symbol(run.state, ascii_only=ascii_wanted())} {run.state}", state_tone(run.state)),
            Cell(run.name, "strong" if live else ""),
            Cell(described.model if described else "", "dim"),
            Cell(described.data if described else "", "dim"),
            _number(_steps(run)),
            _number(human_number(run.train_loss)),
            _number(perplexity_text(run.validation_perplexity)),
            _number(human_count(run.tokens_per_second) if live else _past(run.tokens_per_second), live=live),
            _number(short_duration(run.eta_seconds) if live else ""),
            Cell(short_duration(max(0.0, now - run.created), coarse=True), "dim"),
        ),
    )


def _number(text: str, *, live: bool = True) -> Cell:
    return Cell(text, "dim" if text == UNKNOWN or not live else "")


def _past(rate: float | None) -> str:
    return human_count(rate) if rate is not None else UNKNOWN


def _steps(run: RunStatus) -> str:
    if run.step is None and run.max_steps is None:
        return UNKNOWN
    done = human_count(run.step or 0)
    return f"{done}/{human_count(run.max_steps)}" if run.max_steps is not None else done


def perplexity_text(value: float | None) -> str:
    """A perplexity in at most seven cells."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value < 99.95:
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 999.95 else human_count(value)
