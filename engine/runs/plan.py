"""``plan.json``: the layout that a run was given, and what was expected of it."""

from __future__ import annotations

from typing import Any

import msgspec

from engine.contract.layout import Layout
from engine.contract.rundir import RunDirectory
from engine.contract.spec import BudgetSpec


class PlanFile(msgspec.Struct, frozen=True, kw_only=True):
    """What ``plan.json`` holds."""

    schema: int = 1
    layout: Layout
    budget: BudgetSpec
    """As in the spec: listing many runs reads no TOML."""
    sequence_length: int
    estimate: dict[str, Any] | None = None
    """The object that ``traindeck plan --json`` prints; None where nothing was estimated."""


def read_plan(run: RunDirectory) -> PlanFile | None:
    """What ``plan.json`` says; None where it is missing or of another form (a newer version)."""
    try:
        return msgspec.json.decode(run.plan.read_bytes(), type=PlanFile)
    except (OSError, msgspec.MsgspecError):
        return None
