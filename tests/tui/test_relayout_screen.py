"""Going on under another layout from the list and from the monitor: the form, its problems, the command, the start."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from textual.pilot import Pilot

from engine.contract.machine import Machine
from engine.contract.plan import read_plan
from engine.contract.rundir import RunDirectory
from engine.contract.specfile import read_spec
from engine.runs.home import runs_folder
from engine.runs.relayout import plan_relayout
from tests.tui.looking import text, until
from tests.tui.machines import workstation
from tests.tui.recorded import BEGIN, recorded_run
from tui.app import TraindeckApp
from tui.screens.dialogs import ErrorDialog
from tui.screens.monitor import MonitorScreen
from tui.screens.new_form import Form
from tui.screens.relayout import RelayoutScreen
from tui.screens.runs import RunsScreen
from tui.widgets.field import FieldRow

MACHINE = workstation(4)


@pytest.fixture(autouse=True)
def signs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINDECK_ASCII", "0")


@pytest.fixture
def ended(home: Path) -> Callable[..., RunDirectory]:
    """Makes a run of two CPU workers and 32 sequences a step that has ended, or is in another state."""

    def make(state: str = "finished") -> RunDirectory:
        return recorded_run(runs_folder(), steps=400, state=state)

    return make


def deck(machine: Machine = MACHINE, **more: Any) -> TraindeckApp:
    return TraindeckApp(machine=machine, now=lambda: BEGIN + 3600, **more)


async def opened(pilot: Pilot[Any]) -> RelayoutScreen:
    await until(pilot, lambda: isinstance(pilot.app.screen, RunsScreen) and pilot.app.screen.selected is not None)
    await pilot.press("L")
    await until(pilot, lambda: isinstance(pilot.app.screen, RelayoutScreen) and pilot.app.screen.is_judged)
    screen = pilot.app.screen
    assert isinstance(screen, RelayoutScreen)
    return screen


async def chosen(pilot: Pilot[Any], **fields: str) -> None:
    screen = pilot.app.screen
    assert isinstance(screen, RelayoutScreen)
    form = screen.query_one(Form)
    for name, words in fields.items():
        await until(pilot, lambda name=name: form.shows(f"layout.{name}") and bool(form.row(f"layout.{name}").children))  # type: ignore[misc]
        form.put(f"layout.{name}", words)
        await pilot.pause()
    await until(pilot, lambda: screen.is_judged)


async def test_the_form_asks_for_what_can_change_and_its_command_does_what_it_says(
    ended: Callable[..., RunDirectory],
) -> None:
    run = ended()
    app = deck()
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        assert {row.field.name.partition(".")[0] for row in screen.query(FieldRow)} == {"layout", "budget", "optim"}
        assert screen.draft.texts["optim.batch_size"] == "32"
        assert "Until now ddp on 2 x cpu, fp32" in text(app)
        await chosen(pilot, strategy="hybrid", pp="2", tp="2", devices="4")
        assert screen.verdict is not None
        assert screen.verdict.problems == ()
        assert screen.verdict.estimate is not None
        layout = screen.verdict.estimate.layout
        assert (layout.pp, layout.tp, layout.batch_size) == (2, 2, 32)
        assert "pp 1 │ 2 │ 3 │ layers 3-5" in text(app)
        words = shlex.split(screen.verdict.command)
        assert words[:3] == ["traindeck", "resume", run.id]
        assert plan_relayout(run, words[4::2], MACHINE).layout == layout
    assert list(run.path.glob("*.1")) == []


async def test_problems_stand_at_their_fields_and_nothing_starts(ended: Callable[..., RunDirectory]) -> None:
    run = ended()
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await chosen(pilot, strategy="tensor", devices="4")
        form = screen.query_one(Form)
        assert "heads cannot be split over tp = 4" in form.row("layout.tp").problem
        await pilot.press("ctrl+t")
        await until(pilot, lambda: form.row("layout.tp").has_focus_within)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, RunsScreen))
    assert list(run.path.glob("*.1")) == []


async def test_resuming_writes_the_layout_and_opens_the_monitor(
    ended: Callable[..., RunDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the start of processes, which the tests of the engine do with real ones."""
    begun: list[RunDirectory] = []
    monkeypatch.setattr("engine.runs.control.start", begun.append)
    run = ended()
    app = deck()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        await chosen(pilot, strategy="fsdp", accelerator="cuda", devices="2")
        await pilot.press("ctrl+t")
        await until(pilot, lambda: isinstance(app.screen, MonitorScreen) and app.screen.loaded)
        await until(pilot, lambda: "fsdp on 2 x cuda" in text(app))
    assert [each.path for each in begun] == [run.path]
    plan = read_plan(run)
    assert plan is not None
    assert (plan.layout.dp_shard, plan.layout.accelerator) == (2, "cuda")
    assert plan.estimate is not None
    assert read_spec(run.spec).layout.strategy == "fsdp"
    assert read_plan(RunDirectory(run.path)) is not None
    former = msgspec.json.decode(run.path.joinpath("plan.json.1").read_bytes())
    assert former["layout"]["strategy"] == "ddp"


async def test_a_monitor_that_is_open_shows_the_new_layout(ended: Callable[..., RunDirectory]) -> None:
    run = ended()
    app = deck(open_run=run.path)
    async with app.run_test(size=(140, 40)) as pilot:
        await until(pilot, lambda: "ddp on 2 x cpu" in text(app))
        plan = read_plan(run)
        assert plan is not None
        other = msgspec.structs.replace(plan.layout, strategy="single", dp_replicate=1, device_indices=(0,))
        run.plan.write_bytes(msgspec.json.encode({"layout": other}))
        await until(pilot, lambda: "single on cpu" in text(app))


async def test_a_run_that_trains_is_not_offered_another_layout(ended: Callable[..., RunDirectory]) -> None:
    ended("running")
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, RunsScreen) and app.screen.selected is not None)
        await pilot.press("L")
        await pilot.pause()
        assert isinstance(app.screen, RunsScreen)


async def test_a_run_whose_plan_cannot_be_read_says_so(ended: Callable[..., RunDirectory]) -> None:
    ended().plan.write_text("{")
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, RunsScreen) and app.screen.selected is not None)
        await pilot.press("L")
        await until(pilot, lambda: isinstance(app.screen, ErrorDialog))
        assert "cannot be read" in text(app)


@pytest.mark.parametrize("size", [(80, 24), (140, 40)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_looks(size: tuple[int, int], ended: Callable[..., RunDirectory], snap_compare: Any) -> None:
    ended()

    async def do(pilot: Pilot[Any]) -> None:
        screen = await opened(pilot)
        await chosen(pilot, strategy="pipeline", devices="4")
        screen.query_one(Form).focus_field("layout.schedule")
        await pilot.pause()
        await pilot.wait_for_scheduled_animations()

    assert snap_compare(deck(), terminal_size=size, run_before=do)
