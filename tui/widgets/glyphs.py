"""The signs that widgets draw with: a rich set, and one of plain ASCII for terminals that have no more."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tui.text import ascii_wanted

Drawing = Literal["braille", "block", "ascii"]


@dataclass(frozen=True, slots=True)
class Glyphs:
    """One set of signs, each one cell wide."""

    top_left: str
    top_right: str
    bottom_left: str
    bottom_right: str
    across: str
    down: str
    tick: str
    """Where a label of the y axis points at the chart."""
    bar: tuple[str, ...]
    """A bar's last cell from empty to full; the last is also the full cell."""
    bar_rest: str
    levels: tuple[str, ...]
    """Heights of a history graph, lowest first; the highest leaves a line free to the row above."""
    gap: str
    """A moment of a history graph of which nothing is known."""
    markers: tuple[str, ...]
    """Signs of the curves of a chart, in their order."""
    line: str
    """A curve without markers, in a legend."""
    dot: str
    """Between facts of one line."""
    done: str
    active: str
    waiting: str
    info: str
    warning: str
    error: str
    times: str
    ellipsis: str
    degree: str
    is_ascii: bool


UNICODE = Glyphs(
    top_left="╭", top_right="╮", bottom_left="╰", bottom_right="╯", across="─", down="│", tick="┤",
    bar=(" ", "╸", "━"), bar_rest="─",
    levels=("▁", "▂", "▃", "▄", "▅", "▆", "▇"), gap=" ", markers=("━", "◆", "●", "▲", "■"), line="━", dot="·",
    done="✓", active="●", waiting="○", info="·", warning="!", error="✗", times="×", ellipsis="…", degree="°",
    is_ascii=False,
)  # fmt: skip
ASCII = Glyphs(
    top_left="+", top_right="+", bottom_left="+", bottom_right="+", across="-", down="|", tick="|",
    bar=(" ", "#"), bar_rest=".", levels=("_", ".", "-", "=", "#"), gap=" ", markers=("*", "o", "+", "x", "#"),
    line="*", dot="-", done="+", active=">", waiting=".", info=".", warning="!", error="x", times="x", ellipsis="~",
    degree=" ", is_ascii=True,
)  # fmt: skip


def drawing(environment: Mapping[str, str] | None = None) -> Drawing:
    """How curves are drawn: braille; blocks on consoles whose fonts lack braille, or where asked for; or ASCII."""
    environment = os.environ if environment is None else environment
    if ascii_wanted(environment):
        return "ascii"
    told = environment.get("TRAINDECK_CHARTS", "")
    if told == "block" or (not told and environment.get("TERM") == "linux"):
        return "block"
    return "braille"


def glyphs() -> Glyphs:
    """The signs of this terminal."""
    return ASCII if ascii_wanted() else UNICODE


def bar(fraction: float | None, width: int, signs: Glyphs) -> tuple[str, str]:
    """``(filled, rest)`` of a bar of ``width`` cells; all rest where the fraction is unknown."""
    if fraction is None:
        return "", signs.bar_rest * width
    parts = len(signs.bar) - 1
    units = round(max(0.0, min(1.0, fraction)) * width * parts)
    if fraction > 0:
        units = max(1, units)
    full, part = divmod(units, parts)
    filled = signs.bar[-1] * full + (signs.bar[part] if part else "")
    return filled, signs.bar_rest * (width - len(filled))


def history(values: list[float], width: int, signs: Glyphs) -> str:
    """The newest ``width`` values of 0 to 1 as a small graph, newest at the right; NaN is a gap."""
    top = len(signs.levels) - 1
    shown = [
        signs.gap if value != value else signs.levels[round(max(0.0, min(1.0, value)) * top)]  # noqa: PLR0124 - NaN
        for value in values[-width:]
    ] if width > 0 else []  # fmt: skip
    return "".join(shown).rjust(max(0, width))


_STATE_TONES: dict[str, str] = {
    "queued": "accent", "starting": "accent", "running": "live", "pausing": "warning", "paused": "warning",
    "stopping": "warning", "finished": "good", "failed": "bad", "lost": "bad",
}  # fmt: skip


def state_tone(state: str) -> str:
    """The tone of a run's state in lists and panes alike; both know its name. ``strong`` for an unheard-of one."""
    return _STATE_TONES.get(state, "strong")
