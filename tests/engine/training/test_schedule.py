from __future__ import annotations

import math

import pytest

from engine.contract.spec import BudgetSpec, OptimSpec
from engine.training.budget import Budget
from engine.training.schedule import learning_rate


def rates(total: int, **fields: object) -> list[float]:
    optim = OptimSpec(lr=1.0, **fields)
    return [learning_rate(optim, step, total_steps=total) for step in range(total)]


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "warmup-stable-decay"])
def test_every_schedule_warms_up_in_a_line_to_the_peak(name):
    assert rates(100, schedule=name, warmup_steps=4)[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


@pytest.mark.parametrize("name", ["linear", "cosine", "warmup-stable-decay"])
def test_the_last_update_of_a_schedule_that_decays_has_the_final_rate(name):
    values = rates(50, schedule=name, warmup_steps=10, final_lr_ratio=0.1)
    assert values[-1] == pytest.approx(0.1)
    assert values[10:] == sorted(values[10:], reverse=True)


def test_a_constant_rate_stays():
    assert set(rates(50, schedule="constant", warmup_steps=0)) == {1.0}


def test_cosine_and_linear_are_half_way_in_the_middle():
    assert rates(101, schedule="cosine", warmup_steps=0, final_lr_ratio=0.0)[50] == pytest.approx(0.5)
    assert rates(101, schedule="linear", warmup_steps=0, final_lr_ratio=0.0)[50] == pytest.approx(0.5)
    assert rates(101, schedule="cosine", warmup_steps=0, final_lr_ratio=0.0)[25] == pytest.approx(
        (1 + math.cos(math.pi / 4)) / 2
    )


def test_warmup_stable_decay_keeps_the_peak_until_the_decay():
    values = rates(101, schedule="warmup-stable-decay", warmup_steps=0, decay_fraction=0.2, final_lr_ratio=0.0)
    assert set(values[:81]) == {1.0}
    assert values[90] == pytest.approx(0.5)


@pytest.mark.parametrize("total", [1, 2, 5])
def test_a_run_shorter_than_its_warmup_only_warms_up(total):
    values = rates(total, schedule="cosine", warmup_steps=10)
    assert values == pytest.approx([(step + 1) / 10 for step in range(total)])


def test_a_run_that_only_time_ends_decays_by_the_time_used():
    optim = OptimSpec(lr=1.0, schedule="linear", warmup_steps=2, final_lr_ratio=0.0)
    assert learning_rate(optim, 0, total_steps=None, time_share=0.5) == 0.5
    assert learning_rate(optim, 900, total_steps=None, time_share=0.25) == pytest.approx(0.75)
    assert learning_rate(optim, 900, total_steps=None, time_share=1.5) == pytest.approx(0.0)


def budget(**limits: object) -> Budget:
    return Budget.of(BudgetSpec(**limits), batch_size=8, sequence_length=32, samples_per_epoch=100)


def test_the_end_of_the_schedule_follows_from_whichever_limit_comes_first():
    assert budget(max_steps=9).total_steps == 9
    assert budget(max_tokens=8 * 32 * 5 + 1).total_steps == 6
    assert budget(max_epochs=0.5).total_steps == 7  # 50 samples in batches of 8
    assert budget(max_steps=9, max_tokens=8 * 32, max_epochs=3.0).total_steps == 1
    assert budget(max_seconds=10.0).total_steps is None


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_steps": 7}, "max_steps"),
        ({"max_tokens": 7 * 256}, "max_tokens"),
        ({"max_epochs": 0.56}, "max_epochs"),
        ({"max_seconds": 3.5}, "max_seconds"),
    ],
)
def test_a_limit_is_reached_when_it_is_used_up_and_not_before(limits, reason):
    limit = budget(**limits)
    assert limit.reached(step=6, samples=48, tokens=6 * 256, elapsed_seconds=3.0) is None
    assert limit.reached(step=7, samples=56, tokens=7 * 256, elapsed_seconds=3.5) == reason
