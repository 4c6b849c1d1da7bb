"""The state of a run, folded from its events."""

import math
from pathlib import Path

import pytest

from engine.contract.events import Detached, DevicesFound, Failure, Notice, State, Telemetry
from engine.contract.machine import Device, DeviceSample
from tests.tui.recorded import STEP_SECONDS, TOKENS_PER_STEP, loss_at, recorded_run, started, train, validation
from tui.blocks import TrainBlock
from tui.follow import RunFollower
from tui.state import RunView
from tui.widgets.run_panes import figures


def viewed(*events: object) -> RunView:
    view = RunView()
    for number, event in enumerate(events):
        event.time = float(number)  # type: ignore[attr-defined]
        view.apply(event)  # type: ignore[arg-type]
    return view


def test_series_hold_every_point() -> None:
    view = viewed(started(), validation(0), train(1), train(2))
    assert list(view.series["train_loss"].x("step")) == [1, 2]
    assert view.series["train_loss"].last == pytest.approx(loss_at(2))
    assert view.series["validation_perplexity"].last == pytest.approx(math.exp(loss_at(0) + 0.1))
    assert view.step == 2


def test_blocks_fold_like_events(tmp_path: Path) -> None:
    run = recorded_run(tmp_path, steps=300)
    one, many = RunView(), RunView()
    for source, event in RunFollower(run).read():
        one.apply(event, source)
    parts = RunFollower(run).read_blocks()
    assert any(isinstance(part, TrainBlock) for _, part in parts)
    for source, part in parts:
        many.apply(part, source)
    for name, series in one.series.items():
        assert len(series) == len(many.series[name])
        assert [series.value(n) for n in range(len(series))] == [many.series[name].value(n) for n in range(len(series))]
    assert one.state == many.state == "running"
    assert one.eta_seconds() == many.eta_seconds()


def test_a_resume_drops_what_was_done_after_its_checkpoint() -> None:
    view = viewed(started(), *map(train, range(1, 31)), validation(25), started(20, resumed_from="step-20"), train(21))
    assert list(view.series["train_loss"].x("step")) == list(range(1, 22))
    assert len(view.series["validation_loss"]) == 0
    assert view.best_validation is None
    assert view.step == 21


def test_the_time_left_is_that_of_the_first_budget_to_be_used_up() -> None:
    view = viewed(started(max_steps=100), train(40))
    view.apply(State(state="running", time=9.0), "rank0")
    assert view.eta_seconds() == pytest.approx(60 * STEP_SECONDS)
    begun = started(max_steps=None)
    begun.max_tokens = 50 * TOKENS_PER_STEP
    view.started = begun
    assert view.eta_seconds() == pytest.approx(10 * STEP_SECONDS)
    assert view.done_fraction() == pytest.approx(0.8)
    begun.max_seconds = 40 * STEP_SECONDS + 1.0
    assert view.eta_seconds() == pytest.approx(1.0)
    view.apply(State(state="paused", time=10.0), "rank0")
    assert view.eta_seconds() is None


def test_without_a_budget_nothing_is_guessed() -> None:
    view = viewed(State(state="running"), started(max_steps=None), train(3))
    assert view.eta_seconds() is None
    assert view.done_fraction() is None


def test_the_last_word_of_the_supervisor_is_final() -> None:
    view = RunView()
    view.apply(State(state="running", time=2.0), "rank0")
    view.apply(State(state="starting", time=1.0), "supervisor")
    assert view.state == "running"
    view.apply(State(state="failed", reason="out of memory", time=3.0), "supervisor")
    view.apply(State(state="stopping", time=4.0), "rank0")
    assert (view.state, view.reason) == ("failed", "out of memory")


def test_a_live_run_without_a_supervisor_is_lost() -> None:
    view = RunView()
    view.apply(State(state="running", time=2.0), "rank0")
    view.lost_because = "its supervisor is gone"
    assert (view.state, view.reason) == ("lost", "its supervisor is gone")
    view.apply(State(state="finished", time=3.0), "supervisor")
    assert view.state == "finished"


def test_another_attempt_forgets_how_the_one_before_failed() -> None:
    view = RunView()
    view.apply(Failure(title="no memory", message="", time=1.0), "supervisor")
    view.apply(State(state="failed", time=2.0), "supervisor")
    assert view.failure is not None
    view.apply(State(state="starting", time=3.0), "supervisor")
    assert view.failure is None
    assert view.state == "starting"


def test_a_loss_that_is_not_finite_is_a_gap() -> None:
    event = train(2)
    event.loss = None
    view = viewed(started(), train(1), event, train(3))
    assert math.isnan(view.series["train_loss"].value(1))
    assert math.isnan(view.series["train_perplexity"].value(1))


def test_happenings_are_in_the_order_of_time_whatever_file_they_come_from() -> None:
    view = RunView()
    view.apply(Notice(message="second", time=2.0), "rank0")
    view.apply(Notice(message="first", time=1.0), "supervisor")
    assert [event.text for event in view.recent_happenings()] == ["first", "second"]


def test_devices_of_an_ended_run_have_no_readings(tmp_path: Path) -> None:
    def devices(state: str) -> list[float | None]:
        view = RunView()
        for source, event in RunFollower(recorded_run(tmp_path / state, state=state, gpus=2)).read():
            view.apply(event, source)
        found = view.live_devices()
        assert [device.kind for device in found] == ["cuda", "cuda", "cpu"]
        return [device.utilisation for device in found]

    assert all(busy is not None for busy in devices("running"))
    assert devices("finished") == [None] * 3


def test_devices_of_several_hosts_stand_apart_and_a_new_attempt_tells_them_anew() -> None:
    view = viewed(State(state="running"))
    one, two = (Device(index=index, kind="cuda") for index in range(2))
    view.apply(DevicesFound(host="atelier", devices=(one, two)), "telemetry/atelier")
    view.apply(DevicesFound(host="nas", devices=(one,)), "telemetry/nas")
    for number, source in enumerate(("telemetry/atelier", "telemetry/nas")):
        view.apply(Telemetry(samples=(DeviceSample(index=0, kind="cuda", utilisation=number / 4),)), source)
    assert [(device.index, device.utilisation) for device in view.live_devices()] == [(0, 0.0), (1, None), (0, 0.25)]
    assert [host.host for host in view.hosts.values()] == ["atelier", "nas"]
    view.apply(DevicesFound(host="atelier", devices=(two,)), "telemetry/atelier")
    assert [device.index for device in view.live_devices()] == [1, 0]


def test_the_history_of_devices_is_bounded(tmp_path: Path) -> None:
    view = RunView()
    for source, event in RunFollower(recorded_run(tmp_path)).read():
        for _ in range(10):
            view.apply(event, source)
    assert max(len(past) for host in view.hosts.values() for past in host.history.values()) == 240


def test_the_time_left_counts_evaluations_and_speed_weighs_intervals_by_their_length() -> None:
    """Each second interval is slow, and each takes four times as long as its steps alone: an evaluation."""
    begun = started(max_steps=200)
    view = viewed(State(state="running"), begun)
    for step in range(1, 101):
        event = train(step)
        seconds = 0.5 if step % 2 else 1.5
        event.tokens_per_second, event.step_seconds = TOKENS_PER_STEP / seconds, seconds
        event.elapsed_seconds = step * 4.0
        view.apply(event)
    assert view.tokens_per_second == pytest.approx(TOKENS_PER_STEP / 1.0)
    assert view.eta_seconds() == pytest.approx(100 * 4.0)


def test_the_speed_before_a_resume_does_not_count() -> None:
    view = viewed(started(), *map(train, range(1, 31)), started(20, resumed_from="step-20"))
    assert view.tokens_per_second is None
    event = train(21)
    event.tokens_per_second = 123.0
    view.apply(event)
    assert view.tokens_per_second == 123.0


def test_it_is_told_how_the_run_is_detached() -> None:
    view = viewed(Detached(how="systemd-run", pid=77, host="atelier"))
    assert [event.text for event in view.recent_happenings()] == [
        "cut loose from its terminal with systemd-run (pid 77 on atelier)"
    ]
    assert ("cut loose with", "systemd-run", "value") in figures(view)
