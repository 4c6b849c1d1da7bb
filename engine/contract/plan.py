"""``plan.json``: the layout that a run was given, and what was expected of it."""

from __future__ import annotations

from typing import Any

import msgspec

from engine.contract.layout import Layout
from engine.contract.records import read_record
from engine.contract.rundir import RunDirectory
from engine.contract.spec import BudgetSpec


class PlanFile(msgspec.Struct, frozen=True, kw_only=True):
    """What ``plan.json`` holds."""

    schema: int = 1
    layout: Layout
    budget: BudgetSpec = msgspec.field(default_factory=BudgetSpec)
    """As in the spec: listing many runs reads no TOML."""
    sequence_length: int | None = None
    estimate: dict[str, Any] | None = None
    """The object that ``traindeck plan --json`` prints; None where nothing was estimated."""


def read_plan(run: RunDirectory) -> PlanFile | None:
    """What ``plan.json`` says; None where it is missing, damaged, or of another form (a newer version)."""
    return read_record(run.plan, PlanFile)
