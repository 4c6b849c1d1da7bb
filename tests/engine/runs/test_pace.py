from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import pytest

from engine.contract.events import Started, State
from engine.runs.pace import RECENT, Logged, eta_seconds, newest_state, recent_speed

STARTED = Started(
    parameters=10, world_size=1, accelerator="cpu", device_names=("cpu",), batch_size=4, micro_batch=4,
    accumulation=1, sequence_length=100, precision="fp32", optimiser="adamw", max_steps=1000,
)  # fmt: skip


def _logged(rates: Sequence[float], aside: float = 0.0, tokens: int = 400) -> Logged:
    """Intervals of ``tokens`` each at those rates, each followed by ``aside`` seconds of something else."""
    ends, done = [], 0.0
    for rate in rates:
        done += tokens / rate + aside
        ends.append(done)
    return Logged([tokens * (at + 1) for at in range(len(rates))], ends, list(rates))


def test_speed_is_all_tokens_by_all_seconds() -> None:
    # Half of the tokens at 100 and half at 900 per second take as long as all at 180, not at 500.
    assert recent_speed(_logged([100.0, 900.0] * 50)) == pytest.approx(180.0)
    assert recent_speed(_logged([1.0] * 50 + [500.0] * RECENT)) == pytest.approx(500.0)
    assert recent_speed(_logged([1000.0])) == 1000.0
    assert recent_speed(Logged([], [], [])) is None
    unknown = Logged([400, 800, 1200], [1.0, 2.0, 3.0], [400.0, math.nan, 400.0])
    assert recent_speed(unknown) == pytest.approx(400.0)


def test_what_is_left_takes_as_long_as_what_was_done() -> None:
    logged = _logged([100.0, 900.0] * 50)
    assert eta_seconds(STARTED, 100, logged) == pytest.approx(900 * 400 / 180.0, rel=0.05)
    # Evaluations double the time that a step takes, though not that of its training.
    slower = _logged([400.0] * 100, aside=1.0)
    assert recent_speed(slower) == pytest.approx(400.0)
    assert eta_seconds(STARTED, 100, slower) == pytest.approx(900 * 2.0)


def test_the_first_limit_counts() -> None:
    logged = _logged([400.0] * 10)
    limits = msgspec.structs.replace(STARTED, max_tokens=8000, max_seconds=12.0)
    assert eta_seconds(limits, 10, logged) == pytest.approx(2.0)
    assert eta_seconds(msgspec.structs.replace(STARTED, max_tokens=8000), 10, logged) == pytest.approx(10.0)
    assert eta_seconds(msgspec.structs.replace(STARTED, max_steps=None), 10, logged) is None
    assert eta_seconds(msgspec.structs.replace(STARTED, max_steps=5), 10, logged) == 0.0
    assert eta_seconds(None, 10, logged) is None
    assert eta_seconds(STARTED, 0, Logged([], [], [])) is None
    assert eta_seconds(STARTED, 1, _logged([400.0])) == pytest.approx(999.0)


def _state(name: str, time: float) -> State:
    state = State(state=name)  # type: ignore[arg-type]  # the names come from the table of the test
    state.time = time
    return state


@pytest.mark.parametrize(
    ("supervisor", "rank0", "rules"),
    [
        (None, None, None),
        (("starting", 1.0), None, "starting"),
        (None, ("running", 1.0), "running"),
        (("starting", 1.0), ("running", 2.0), "running"),
        (("starting", 3.0), ("stopping", 2.0), "starting"),
        (("failed", 1.0), ("paused", 2.0), "failed"),
    ],
)
def test_the_newest_word_counts_unless_the_supervisors_was_final(
    supervisor: tuple[str, float] | None, rank0: tuple[str, float] | None, rules: str | None
) -> None:
    found = newest_state(supervisor and _state(*supervisor), rank0 and _state(*rank0))
    assert (found.state if found else None) == rules
