"""The monitor: what it shows in every state, its keys, and its feed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from textual.pilot import Pilot

from engine.contract.events import CommandDone, Sample, State
from engine.contract.journal import Journal, LineReader
from engine.contract.layout import Layout
from engine.contract.rundir import Command, RunDirectory
from tests.tui.looking import shown, text, until
from tests.tui.recorded import Clock, recorded_run, started, train
from tui.app import TraindeckApp
from tui.palette import ActionProvider
from tui.screens.monitor import MonitorScreen
from tui.widgets.chart import Chart
from tui.widgets.pages import Pages


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINDECK_ASCII", "0")
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


async def watch(pilot: Pilot[Any]) -> MonitorScreen:
    await until(pilot, lambda: isinstance(pilot.app.screen, MonitorScreen) and pilot.app.screen.loaded)
    screen = pilot.app.screen
    assert isinstance(screen, MonitorScreen)
    return screen


def after(*keys: str) -> Callable[[Pilot[Any]], Awaitable[None]]:
    async def do(pilot: Pilot[Any]) -> None:
        await watch(pilot)
        await pilot.press(*keys)
        await pilot.pause()
        await pilot.pause()

    return do


SCENES: dict[str, dict[str, Any]] = {
    "running": {"steps": 400, "state": "running"},
    "gpus": {"steps": 730, "state": "running", "gpus": 8},
    "mesh": {
        "steps": 730, "state": "running", "gpus": 4,
        "layout": Layout(
            strategy="hybrid", accelerator="cuda", device_indices=(0, 1, 2, 3), pp=2, tp=2, schedule="1f1b",
            stages=(3, 3), micro_batch=8, accumulation=4, precision="bf16-mixed",
        ),
    },
    "preparing": {"preparing": True, "state": "starting"},
    "failed": {"steps": 130, "state": "failed"},
    "finished": {"steps": 1000, "state": "finished"},
}  # fmt: skip


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("scene", SCENES)
def test_looks(scene: str, size: tuple[int, int], tmp_path: Path, snap_compare: Any) -> None:
    run = recorded_run(tmp_path, **SCENES[scene])
    assert snap_compare(TraindeckApp(open_run=run.path), terminal_size=size, run_before=after())


def test_looks_in_ascii_without_colour(tmp_path: Path, snap_compare: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINDECK_ASCII", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    run = recorded_run(tmp_path, gpus=2)
    assert snap_compare(TraindeckApp(open_run=run.path), terminal_size=(80, 24), run_before=after())


def test_devices_enlarged(tmp_path: Path, snap_compare: Any) -> None:
    run = recorded_run(tmp_path, gpus=8)
    assert snap_compare(TraindeckApp(open_run=run.path), terminal_size=(120, 40), run_before=after("4", "4"))


async def test_everything_important_is_in_sight_at_80x24(tmp_path: Path) -> None:
    run = recorded_run(tmp_path, steps=400)
    app = TraindeckApp(open_run=run.path)
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await watch(pilot)
        seen = text(app)
    for words in ("● running", "quickstart", "400 / 1,000", "40 %", "ETA 2 min 30 s", "loss", "perplexity", "32.8 K",
                  "learning rate", "gradient norm", "best validation", "step-400", "3.15 M", "84 %",
                  "rank 1"):  # fmt: skip
        assert words in seen, words


async def test_a_running_training_is_followed(tmp_path: Path) -> None:
    run = recorded_run(tmp_path, steps=100)
    app = TraindeckApp(open_run=run.path)
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        screen = await watch(pilot)
        with Journal(run.events_of("rank0"), Clock(2e9)) as journal:
            journal.write(train(101))
            journal.write(Sample(step=101, prompt="def ", text="evil\x1b[2Jtext"))
            with run.log.open("a") as log:
                log.write("a new line \x1b]0;title\x07\n")
            await until(pilot, lambda: screen.view.step == 101 and "a new line" in text(app))
            assert "101 / 1,000" in text(app)
            await pilot.press("s")
            await until(pilot, lambda: "evil" in text(app))
        assert "\x1b" not in text(app)
        assert "\x07" not in text(app)


async def test_a_preparation_gives_way_to_the_curves(tmp_path: Path) -> None:
    run = recorded_run(tmp_path, preparing=True, state="starting")
    app = TraindeckApp(open_run=run.path)
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await watch(pilot)
        assert "training the tokenizer" in text(app)
        assert "64 %" in text(app)
        assert not app.screen.query_one("#loss").is_on_screen
        with Journal(run.events_of("rank0"), Clock(2e9)) as journal:
            journal.write(State(state="running"))
            journal.write(started())
            journal.write(train(1))
        await until(pilot, lambda: app.screen.query_one("#loss").is_on_screen)
        await until(pilot, lambda: "━ train 8" in text(app))


async def test_a_failure_is_told_plainly(tmp_path: Path) -> None:
    app = TraindeckApp(open_run=recorded_run(tmp_path, steps=30, state="failed").path)
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await watch(pilot)
        seen = text(app)
    for words in ("✗ failed", "A worker ran out of memory (rank 1)", "512 MiB more", "micro_batch smaller"):
        assert words in seen, words


async def test_a_lost_run_says_why(tmp_path: Path) -> None:
    app = TraindeckApp(open_run=recorded_run(tmp_path, steps=30, state="running", alive=False).path)
    async with app.run_test(size=(120, 40)) as pilot:
        await watch(pilot)
        await until(pilot, lambda: "? lost" in text(app))


async def test_a_run_that_is_not_there_is_told_and_does_not_break(tmp_path: Path) -> None:
    app = TraindeckApp(open_run=tmp_path / "nowhere")
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await watch(pilot)
        await until(pilot, lambda: "cannot be read" in text(app))
        assert "? lost" in text(app)


def commands(run: RunDirectory) -> list[Command]:
    return [msgspec.json.decode(line, type=Command) for line in LineReader(run.commands).read()]


def toasts(app: TraindeckApp) -> list[str]:
    return [toast.message for toast in app._notifications]


REFUSED = "checkpoint refused: disk full"


async def test_pause_and_checkpoint_are_asked_for_and_answered(tmp_path: Path) -> None:
    run = recorded_run(tmp_path, steps=30)
    app = TraindeckApp(open_run=run.path)
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await watch(pilot)
        await pilot.press("p")
        await until(pilot, lambda: [command.action for command in commands(run)] == ["pause"])
        with Journal(run.events_of("rank0"), Clock(2e9)) as journal:
            journal.write(State(state="paused", step=30))
            journal.write(CommandDone(id=commands(run)[0].id, action="pause", accepted=True, message="at step 30"))
            await until(pilot, lambda: "‖ paused" in text(app))
            await until(pilot, lambda: toasts(app) == ["pausing at the end of this step"])
            assert "p Go on" in shown(app)[-1]
            await pilot.press("p")
            await until(pilot, lambda: [command.action for command in commands(run)] == ["pause", "resume"])
            await pilot.press("c")
            await until(pilot, lambda: commands(run)[-1].action == "checkpoint")
            answer = CommandDone(id=commands(run)[-1].id, action="checkpoint", accepted=False, message="disk full")
            journal.write(answer)
            await until(pilot, lambda: toasts(app)[1:] == ["going on", "writing a checkpoint", REFUSED])


async def test_stop_asks_first(tmp_path: Path) -> None:
    run = recorded_run(tmp_path, steps=30)
    app = TraindeckApp(open_run=run.path)
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await watch(pilot)
        await pilot.press("S")
        await until(pilot, lambda: "Stop this training?" in text(app))
        await pilot.press("n")
        await until(pilot, lambda: isinstance(app.screen, MonitorScreen))
        assert commands(run) == []
        await pilot.press("S")
        await until(pilot, lambda: not isinstance(app.screen, MonitorScreen))
        await pilot.press("y")
        await until(pilot, lambda: [command.action for command in commands(run)] == ["stop"])


async def test_an_ended_run_cannot_be_paused_and_says_so(tmp_path: Path) -> None:
    run = recorded_run(tmp_path, steps=1000, state="finished")
    app = TraindeckApp(open_run=run.path)
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await watch(pilot)
        await pilot.press("p")
        await until(pilot, lambda: any("cannot be paused" in toast.message for toast in app._notifications))
        assert commands(run) == []


@pytest.mark.parametrize("scene", ["preparing", "failed", "finished"])
async def test_pausing_is_not_offered_where_it_would_be_refused(scene: str, tmp_path: Path) -> None:
    app = TraindeckApp(open_run=recorded_run(tmp_path, **SCENES[scene]).path)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        screen = await watch(pilot)
        keys = shown(app)[-1]
        assert "Pause" not in keys
        assert "Go on" not in keys
        assert ("R Resume" in keys) == (scene != "preparing")
        await pilot.press("p", "space")
        await until(pilot, lambda: len(toasts(app)) == 2)
        assert app.screen is screen  # and not the profiles
        assert "pause" not in [action.name for action in ActionProvider(screen)._offered()]


async def test_pausing_is_offered_while_it_trains(tmp_path: Path) -> None:
    app = TraindeckApp(open_run=recorded_run(tmp_path, steps=30).path)
    async with app.run_test(size=(120, 40)) as pilot:
        await watch(pilot)
        assert "p Pause" in shown(app)[-1]


async def test_panes_pages_and_axes_by_key(tmp_path: Path) -> None:
    app = TraindeckApp(open_run=recorded_run(tmp_path).path)
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await watch(pilot)
        await pilot.press("1")
        await until(pilot, lambda: screen.focused is screen.query_one("#loss"))
        await pilot.press("y")
        assert screen.query_one("#loss", Chart).log_y
        assert screen.query_one("#perplexity", Chart).log_y
        await pilot.press("x")
        assert {chart.x for chart in screen.query(Chart)} == {"tokens"}
        small = screen.query_one("#loss").size
        await pilot.press("1")
        await until(pilot, lambda: screen.query_one("#loss").size.height > small.height)
        await pilot.press("escape")
        await until(pilot, lambda: screen.query_one("#loss").size == small)
        assert app.screen is screen
        await pilot.press("e")
        await until(pilot, lambda: screen.query_one(Pages).page == "events" and "checkpoint step-400" in text(app))
        await pilot.press("g")
        await until(pilot, lambda: "lines below" in text(app))
        await pilot.press("G", "l")
        await until(pilot, lambda: "[rank 1] ready" in text(app))
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, MonitorScreen))


@pytest.mark.parametrize(("size", "keys"), [((80, 24), "6"), ((120, 40), "66")], ids=["80x24", "120x40"])
async def test_a_pane_without_room_is_shown_alone(size: tuple[int, int], keys: str, tmp_path: Path) -> None:
    app = TraindeckApp(open_run=recorded_run(tmp_path).path)
    async with app.run_test(size=size) as pilot:
        screen = await watch(pilot)
        await pilot.press(*keys)
        norm, speed = screen.query_one("#grad-norm", Chart), screen.query_one("#speed", Chart)
        await until(pilot, lambda: norm.size.height > size[1] // 2 and "─ gradient norm" in text(app))
        await until(pilot, lambda: norm.size.width == size[0])
        await pilot.press("escape")
        await until(pilot, lambda: "Numbers" in text(app) or "learning rate" in text(app))
        await pilot.press("7")
        await until(pilot, lambda: speed.size.height > size[1] // 2 and "─ tokens/s" in text(app))
        await pilot.press("6")
        await until(pilot, lambda: norm.size.width == size[0] and not speed.is_on_screen)
        await pilot.press("escape")
        await until(pilot, lambda: screen.query_one("#loss").is_on_screen and not speed.is_on_screen)
        assert app.screen is screen


async def test_a_pane_of_a_run_that_prepares_is_shown_alone(tmp_path: Path) -> None:
    app = TraindeckApp(open_run=recorded_run(tmp_path, preparing=True, state="starting").path)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await watch(pilot)
        for key, name in (("2", "perplexity"), ("1", "loss"), ("7", "speed")):
            await pilot.press(key)
            await until(pilot, lambda name=name: screen.query_one(f"#{name}").size.height > 12)  # type: ignore[misc]
        await pilot.press("escape")
        await until(pilot, lambda: "training the tokenizer" in text(app))


async def test_the_palette_says_what_comes_before_another_layout(tmp_path: Path) -> None:
    app = TraindeckApp(open_run=recorded_run(tmp_path, steps=30).path)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        screen = await watch(pilot)
        assert "Other layout" not in shown(app)[-1]
        await pilot.press("ctrl+p")
        await until(pilot, lambda: app.screen is not screen)
        await pilot.press(*"other lay")
        await until(pilot, lambda: "Other layout" in text(app) and "stop it first" in text(app))
        await pilot.press("down", "enter")
        await until(pilot, lambda: any("stop it first" in toast for toast in toasts(app)))
        assert app.screen is screen


async def test_nothing_is_written_while_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = TraindeckApp(open_run=recorded_run(tmp_path).path)
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await watch(pilot)
        await until(pilot, lambda: screen.view.hosts)
        await asyncio.sleep(0.2)  # what was begun by opening may still be drawn
        written: list[object] = []
        display = app._display
        monkeypatch.setattr(app, "_display", lambda *what: (written.append(what), display(*what)))
        begun = time.monotonic()
        while time.monotonic() - begun < 1.0:
            await pilot.pause(0.05)
        assert written == []


async def test_the_feed_ends_with_its_screen(tmp_path: Path) -> None:
    app = TraindeckApp(open_run=recorded_run(tmp_path).path)
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        screen = await watch(pilot)
        feed = screen._feed
        assert feed is not None
        await pilot.press("escape")
        await until(pilot, lambda: feed.stopped)
        await until(pilot, lambda: not any(worker.name == "RunFeed" and worker.is_running for worker in app.workers))


async def test_a_resized_terminal_is_filled_anew(tmp_path: Path) -> None:
    app = TraindeckApp(open_run=recorded_run(tmp_path, gpus=8).path)
    async with app.run_test(size=(120, 40)) as pilot:
        await watch(pilot)
        for size in ((20, 5), (200, 60), (80, 24), (40, 12)):
            await pilot.resize_terminal(*size)
            await pilot.pause()
            assert len(shown(app)) == size[1]
        assert "running" in text(app)
