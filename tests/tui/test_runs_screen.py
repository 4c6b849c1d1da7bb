"""The list of runs: what it shows, that it keeps its place, and what its keys do."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from textual.pilot import Pilot

from engine.contract.events import State
from engine.contract.journal import Journal, LineReader
from engine.contract.rundir import Command, RunDirectory, RunInfo
from engine.contract.states import RunStateName
from engine.runs.home import runs_folder
from engine.runs.status import list_runs
from tests.tui.looking import shown, text, until
from tests.tui.machines import LAPTOP
from tests.tui.recorded import BEGIN, recorded_run, train
from tui.app import TraindeckApp
from tui.screens.dialogs import Confirm
from tui.screens.monitor import MonitorScreen
from tui.screens.new import NewScreen
from tui.screens.runs import RunsScreen
from tui.screens.runs_rows import perplexity_text, row_of
from tui.state import RunView
from tui.widgets.painted import PALETTE
from tui.widgets.run_panes import RunHeader
from tui.widgets.table import Table


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")


@pytest.fixture
def runs(home: Path) -> dict[str, RunDirectory]:
    """One run of each kind, the newest first in the list being the last here."""
    folder = runs_folder()
    made = {
        "broken": recorded_run(folder, 130, "failed", name="broken"),
        "done": recorded_run(folder, 1000, "finished", name="done"),
        "held": recorded_run(folder, 300, "paused", name="held"),
        "going": recorded_run(folder, 400, "running", name="going"),
    }
    for minutes, (name, run) in enumerate(made.items()):
        name = "going [b]fast[/b]" if name == "going" else name
        info = msgspec.json.decode(run.info.read_bytes(), type=RunInfo)
        info = msgspec.structs.replace(info, created=BEGIN + 60 * minutes, name=name)
        run.info.write_bytes(msgspec.json.encode(info))
    return made


def deck() -> TraindeckApp:
    return TraindeckApp(machine=LAPTOP, now=lambda: BEGIN + 3600)


def rows(app: TraindeckApp) -> list[str]:
    return [" ".join(cell.text for cell in row.cells) for row in app.screen.query_one(Table).rows]


async def listed(pilot: Pilot[Any], count: int = 4) -> RunsScreen:
    def complete() -> bool:
        screen = pilot.app.screen
        return isinstance(screen, RunsScreen) and "llama-3m" in text(pilot.app) and len(rows(pilot.app)) == count  # type: ignore[arg-type]

    await until(pilot, complete)
    screen = pilot.app.screen
    assert isinstance(screen, RunsScreen)
    return screen


async def test_newest_first_with_state_progress_and_numbers(runs: dict[str, RunDirectory]) -> None:
    app = deck()
    async with app.run_test(size=(120, 40)) as pilot:
        await listed(pilot)
        lines = rows(app)
        assert [line.split()[1] for line in lines] == ["running", "paused", "finished", "failed"]
        assert "going [b]fast[/b]" in lines[0]
        assert "400/1,000" in lines[0]
        assert "going [b]fast[/b]" in text(app)
        assert lines[0].split()[-1] == "57m"
        assert lines[3].split()[-1] == "1h"


async def test_the_cursor_stays_on_its_run_when_a_newer_one_appears(runs: dict[str, RunDirectory]) -> None:
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await listed(pilot)
        await pilot.press("j", "j")
        before = screen.selected
        assert before is not None
        assert before.name == "done"
        new = recorded_run(runs_folder(), 10, "running", name="new")
        info = msgspec.json.decode(new.info.read_bytes(), type=RunInfo)
        new.info.write_bytes(msgspec.json.encode(msgspec.structs.replace(info, created=BEGIN + 999)))
        await until(pilot, lambda: len(rows(app)) == 5)
        after = screen.selected
        assert after is not None
        assert after.run == before.run
        assert screen.query_one(Table).cursor == 3


async def test_the_cursor_stands_on_the_run_just_started(runs: dict[str, RunDirectory]) -> None:
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await listed(pilot)
        await pilot.press("j", "j", "n")
        await until(pilot, lambda: isinstance(app.screen, NewScreen))
        new = recorded_run(runs_folder(), 10, "running", name="new")
        app.open_run(new)
        await until(pilot, lambda: isinstance(app.screen, MonitorScreen))
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is screen and len(rows(app)) == 5)
        assert screen.selected is not None
        assert screen.selected.run == new.id
        assert new.id in text(app)  # and what is said below the list is of this run
        await pilot.press("k")
        assert screen.selected.run != new.id


async def test_numbers_move_while_it_trains(runs: dict[str, RunDirectory]) -> None:
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        await listed(pilot)
        with Journal(runs["going"].events_of("rank0")) as journal:
            journal.write(train(401))
        await until(pilot, lambda: "401/1,000" in text(app))


async def test_filter_narrows_and_escape_brings_all_back(runs: dict[str, RunDirectory]) -> None:
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        await listed(pilot)
        await pilot.press("slash", *"FINISHED llama", "enter")
        await until(pilot, lambda: len(rows(app)) == 1)
        assert "done" in rows(app)[0]
        await pilot.press("escape")
        await until(pilot, lambda: len(rows(app)) == 4)


async def test_enter_opens_the_monitor_of_the_selected_run(runs: dict[str, RunDirectory]) -> None:
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        await listed(pilot)
        await pilot.press("G", "enter")
        await until(pilot, lambda: isinstance(app.screen, MonitorScreen))
        assert isinstance(app.screen, MonitorScreen)
        assert app.screen.run.path == runs["broken"].path


async def test_stop_asks_and_then_writes_the_request(runs: dict[str, RunDirectory]) -> None:
    app = deck()
    commands = LineReader(runs["going"].commands)
    async with app.run_test(size=(80, 24)) as pilot:
        await listed(pilot)
        await pilot.press("S")
        assert isinstance(app.screen, Confirm)
        await pilot.press("enter")  # the focus is on the safe answer
        assert isinstance(app.screen, RunsScreen)
        assert commands.read() == []
        await pilot.press("S", "y")
        lines: list[bytes] = []
        await until(pilot, lambda: bool(lines.extend(commands.read()) or lines))
        assert msgspec.json.decode(lines[0], type=Command).action == "stop"


async def test_resume_of_a_paused_run_is_requested(runs: dict[str, RunDirectory]) -> None:
    app = deck()
    commands = LineReader(runs["held"].commands)
    async with app.run_test(size=(80, 24)) as pilot:
        await listed(pilot)
        await pilot.press("j", "R")
        lines: list[bytes] = []
        await until(pilot, lambda: bool(lines.extend(commands.read()) or lines))
        assert msgspec.json.decode(lines[0], type=Command).action == "resume"


async def test_delete_asks_and_takes_only_what_has_ended(runs: dict[str, RunDirectory]) -> None:
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        await listed(pilot)
        await pilot.press("X")
        assert isinstance(app.screen, RunsScreen)  # it is running
        await pilot.press("G", "X", "y")
        await until(pilot, lambda: not runs["broken"].path.exists())
        await until(pilot, lambda: len(rows(app)) == 3)
        assert runs["going"].path.exists()


async def test_a_new_training_from_an_old_run(runs: dict[str, RunDirectory]) -> None:
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        await listed(pilot)
        await pilot.press("G", "c")
        await until(pilot, lambda: isinstance(app.screen, NewScreen) and app.screen.verdict is not None)
        assert isinstance(app.screen, NewScreen)
        assert app.screen.draft.texts["name"] == "broken"
        assert app.screen.draft.origin == str(runs["broken"].spec)


async def test_runs_that_vanish_leave_the_list_and_then_the_welcome(runs: dict[str, RunDirectory]) -> None:
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        await listed(pilot)
        for run in runs.values():
            shutil.rmtree(run.path)
        await until(pilot, lambda: "No runs yet" in text(app))


async def test_only_what_the_run_can_take_is_offered(runs: dict[str, RunDirectory]) -> None:
    app = deck()
    async with app.run_test(size=(160, 24)) as pilot:
        await listed(pilot)
        keys = shown(app)[-1]
        assert "S Stop" in keys
        assert "X Delete" not in keys
        await pilot.press("G")
        await pilot.pause()
        keys = shown(app)[-1]
        assert "S Stop" not in keys
        assert "R Resume" in keys
        assert "X Delete" in keys


def after(*keys: str) -> Callable[[Pilot[Any]], Awaitable[None]]:
    async def do(pilot: Pilot[Any]) -> None:
        await listed(pilot)
        await pilot.press(*keys)
        await pilot.pause()

    return do


SIZES = pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=lambda size: f"{size[0]}x{size[1]}")


@SIZES
def test_looks(runs: dict[str, RunDirectory], size: tuple[int, int], snap_compare: Any) -> None:
    assert snap_compare(deck(), terminal_size=size, run_before=after("j"))


@SIZES
def test_looks_empty(home: Path, size: tuple[int, int], snap_compare: Any) -> None:
    async def ready(pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: "No runs yet" in text(pilot.app))

    assert snap_compare(deck(), terminal_size=size, run_before=ready)


def test_looks_asking(runs: dict[str, RunDirectory], snap_compare: Any) -> None:
    assert snap_compare(deck(), terminal_size=(80, 24), run_before=after("S"))


def test_looks_in_ascii_without_colour(
    runs: dict[str, RunDirectory], snap_compare: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINDECK_ASCII", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    assert snap_compare(deck(), terminal_size=(80, 24), run_before=after())


async def test_ascii_is_ascii(runs: dict[str, RunDirectory], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINDECK_ASCII", "1")
    app = deck()
    async with app.run_test(size=(120, 40)) as pilot:
        await listed(pilot)
        seen = {text(app)}
        for keys in ("S", "escape", "n", "escape", "p", "question_mark"):
            await pilot.press(keys)
            await pilot.pause(0.2)
            seen.add(text(app))
        assert {character for page in seen for character in page if not character.isascii()} == set()


@pytest.mark.parametrize("state", get_args(RunStateName))
def test_a_state_has_one_colour_everywhere(state: RunStateName, runs: dict[str, RunDirectory]) -> None:
    listed = row_of(msgspec.structs.replace(list_runs()[0], state=state), None, BEGIN).cells[0]
    view = RunView()
    view.apply(State(time=1.0, state=state), "supervisor")
    watched = RunHeader(view).content(80, 2)[0]
    assert (listed.text, listed.tone) in watched
    assert f"table--{listed.tone}" in Table.COMPONENT_CLASSES
    assert listed.tone in PALETTE


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "n/a"), (1.5, "1.50"), (123.44, "123.4"), (4096, "4,096"), (1e7, "10.0 M"), (float("nan"), "n/a")],
)
def test_perplexities_fit_their_column(value: float | None, words: str) -> None:
    assert perplexity_text(value) == words
    assert len(words) <= 7
