"""A run that has nothing left to do is not started again without a word."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.contract.errors import RunError
from engine.contract.events import Ended, Train
from engine.contract.journal import Journal
from engine.contract.rundir import RunDirectory
from engine.contract.spec import BudgetSpec, RunSpec
from engine.contract.specfile import dump_spec
from engine.runs.budgetleft import require_budget_left


def ended_run(tmp_path: Path, budget: BudgetSpec, reason: str) -> RunDirectory:
    """A run that ended at step 40 with a checkpoint there."""
    run = RunDirectory(tmp_path / "some-run")
    run.events.mkdir(parents=True)
    run.spec.write_text(dump_spec(RunSpec(budget=budget)))
    with Journal(run.events_of("rank0")) as journal:
        journal.write(
            Train(
                step=40, loss=2.0, lr=1e-3, grad_norm=1.0, tokens=1000, samples=10, tokens_per_second=1.0,
                step_seconds=1.0, elapsed_seconds=50.0,
            )
        )  # fmt: skip
        journal.write(Ended(step=40, reason=reason, tokens=1000, elapsed_seconds=50.5))
    folder = run.checkpoints / "step-40"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    return run


@pytest.mark.parametrize(
    ("limit", "used", "more"), [("max_steps", 40, 80), ("max_tokens", 1000, 2000), ("max_seconds", 50.5, 100)]
)
def test_a_used_up_budget_is_told_with_what_to_do(tmp_path: Path, limit: str, used: float, more: float) -> None:
    value = {"max_steps": 40, "max_tokens": 1000, "max_seconds": 50.0}[limit]
    run = ended_run(tmp_path, BudgetSpec(**{limit: value}), limit)
    with pytest.raises(RunError) as caught:
        require_budget_left(run)
    assert f"{used:,}" in caught.value.message
    assert f"--set budget.{limit}={more}" in caught.value.hint


def test_a_larger_budget_a_stop_or_a_lost_checkpoint_leave_work_to_do(tmp_path: Path) -> None:
    require_budget_left(ended_run(tmp_path / "more", BudgetSpec(max_steps=41), "max_steps"))
    require_budget_left(ended_run(tmp_path / "stopped", BudgetSpec(max_steps=40), "stopped"))
    run = ended_run(tmp_path / "lost", BudgetSpec(max_steps=40), "max_steps")
    (run.checkpoints / "step-40" / "manifest.json").unlink()
    require_budget_left(run)
