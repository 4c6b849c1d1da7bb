"""The ranks that other tests start: what they return, raise or leave undone is known, and none is left behind."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch
from torch import distributed

from tests.engine.processes import RanksFailedError, run_ranks


def total(number: int) -> float:
    value = torch.tensor(float(number * distributed.get_rank()))
    distributed.all_reduce(value)
    return float(value)


def fail_on_one() -> None:
    if distributed.get_rank() == 1:
        raise ValueError("of rank one")
    distributed.barrier()


def die_on_one() -> str:
    if distributed.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def test_every_rank_returns_its_result():
    assert run_ranks(3, total, 5) == [15.0, 15.0, 15.0]


def test_a_failure_of_one_rank_is_told_and_hangs_nothing():
    begin = time.monotonic()
    with pytest.raises(RanksFailedError, match="of rank one"):
        run_ranks(2, fail_on_one)
    assert time.monotonic() - begin < 30


def test_a_killed_rank_is_a_failure_unless_it_was_meant():
    with pytest.raises(RanksFailedError, match="rank 1 died: exit code -9"):
        run_ranks(2, die_on_one)
    assert run_ranks(2, die_on_one, may_die={1}) == ["alive", None]


def test_ranks_that_do_not_end_are_ended():
    with pytest.raises(RanksFailedError, match="rank 0 did not end in time"):
        run_ranks(1, time.sleep, 60, timeout=3)
