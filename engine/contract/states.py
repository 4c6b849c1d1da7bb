"""The states of a run and which requests each of them takes."""

from __future__ import annotations

from typing import Literal

RunStateName = Literal["queued", "starting", "running", "pausing", "paused", "stopping", "finished", "failed", "lost"]

LIVE: frozenset[str] = frozenset({"queued", "starting", "running", "pausing", "paused", "stopping"})
"""States in which processes of the run exist (a run in one of them without any is ``lost``)."""
ENDED: frozenset[str] = frozenset({"finished", "failed", "lost"})

Action = Literal["pause", "resume", "stop", "checkpoint"]

TAKES: dict[str, frozenset[str]] = {
    "pause": frozenset({"running"}),
    "resume": frozenset({"paused", "pausing"}) | ENDED,
    "stop": LIVE - {"stopping"},
    "checkpoint": frozenset({"running", "paused"}),
}
"""States in which each action is possible. Resuming an ended run starts its processes anew."""
