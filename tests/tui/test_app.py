"""The app as a whole: first start, moving between screens, help, palette, and what it never does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.runs.home import runs_folder
from tests.tui.looking import text, until
from tests.tui.machines import LAPTOP, workstation
from tests.tui.recorded import BEGIN, recorded_run
from tui.actions import ACTIONS, ANYWHERE, TITLES, actions_of, key_text
from tui.app import TraindeckApp
from tui.feeds import FeedFailed
from tui.screens.dialogs import ErrorDialog
from tui.screens.help import HelpScreen, Wrapped
from tui.screens.monitor import MonitorScreen
from tui.screens.new import NewScreen
from tui.screens.profiles import ProfilesScreen
from tui.screens.runs import RunsScreen


def deck(**more: object) -> TraindeckApp:
    return TraindeckApp(machine=LAPTOP, now=lambda: BEGIN + 3600, **more)  # type: ignore[arg-type]


async def test_a_first_start_says_what_to_do() -> None:
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "No runs yet" in text(app))
        assert "about 4 minutes" in text(app)
        assert "2 cores, 16.0 GiB" in text(app)


async def test_the_quickstart_is_two_keys_away(home: Path) -> None:
    """The second key would start it: here it is seen to be on the start button with everything in order."""
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "No runs yet" in text(app))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, NewScreen) and app.screen.verdict is not None)
        screen = app.screen
        assert isinstance(screen, NewScreen)
        assert app.focused is screen.query_one("#start")
        assert screen.verdict is not None
        assert screen.verdict.problems == ()
        assert screen.verdict.spec.name == "quickstart"


async def test_keys_open_the_screens_and_escape_comes_back() -> None:
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("p")
        await until(pilot, lambda: isinstance(app.screen, ProfilesScreen))
        await pilot.press("n")
        await until(pilot, lambda: isinstance(app.screen, NewScreen))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, RunsScreen))
        await pilot.press("question_mark")
        assert isinstance(app.screen, HelpScreen)
        await pilot.press("escape")
        assert isinstance(app.screen, RunsScreen)
        await pilot.press("escape")
        assert isinstance(app.screen, RunsScreen)


async def test_letters_do_not_leave_the_form() -> None:
    """Also on a field that is a choice, where a letter looks for a word."""
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("n")
        await until(pilot, lambda: isinstance(app.screen, NewScreen) and app.focused is not None)
        await pilot.press("end", "p", "tab", "tab", "r", "d")
        assert isinstance(app.screen, NewScreen)
        assert app.screen.draft.texts["name"] == "quickstartp"


async def test_help_lists_every_action(home: Path) -> None:
    app = deck()
    async with app.run_test(size=(120, 200)) as pilot:
        await pilot.press("p", "question_mark")
        await pilot.pause()
        shown = " ".join(text(app).split())
        assert shown.index(TITLES["profiles"]) < shown.index(TITLES["new"])
        for action in ACTIONS:
            assert action.help in shown
            for key in filter(None, action.keys.split(",")):
                assert key_text(key) in shown


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("height", [24, 200])
async def test_help_is_wrapped_to_its_column(width: int, height: int) -> None:
    """With a scroll bar and without: what is shown are the lines that help made, and no word below them."""
    app = deck()
    async with app.run_test(size=(width, height)) as pilot:
        await pilot.press("question_mark")
        await until(pilot, lambda: "On every screen" in text(app) or height < 100)
        body = app.screen.query_one(Wrapped)
        await until(pilot, lambda: body.size.height > 20)
        made = str(body.content).rstrip("\n").split("\n")
        assert max(len(line) for line in made) <= body.content_size.width
        assert body.size.height in {len(made), len(made) + 1}


def test_no_screen_has_two_actions_on_one_key() -> None:
    for place in TITLES:
        keys = [
            key
            for action in actions_of(place)
            if action.name != "quickstart"  # enter, while there are no runs to open
            for key in action.keys.split(",")
            if key
        ]
        assert len(keys) == len(set(keys)), place


def test_what_takes_something_away_is_upper_case_and_asks() -> None:
    for action in ACTIONS:
        if action.title in {"Delete", "Stop"}:
            assert action.keys.isupper()
            assert "(asks)" in action.help


async def test_the_palette_finds_and_runs_actions() -> None:
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "No runs yet" in text(app))
        await pilot.press("ctrl+p")
        await until(pilot, lambda: "Theme" in text(app))
        await pilot.press(*"profil")
        await until(pilot, lambda: "Settings by name" in text(app))
        await pilot.press("down", "enter")
        await until(pilot, lambda: isinstance(app.screen, ProfilesScreen))


async def test_the_theme_changes_and_both_are_ours() -> None:
    app = deck()
    async with app.run_test(size=(80, 24)):
        assert app.theme == "traindeck-dark"
        app.action_switch_theme()
        assert app.theme == "traindeck-light"


async def test_opened_with_a_run_it_shows_that_run(home: Path) -> None:
    run = recorded_run(runs_folder(), steps=20, state="finished")
    app = deck(open_run=run.path)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, MonitorScreen))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, RunsScreen) and "finished" in text(app))


async def test_opened_with_a_profile_it_is_ready_to_start_it() -> None:
    app = deck(profile="lstm")
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, NewScreen) and app.screen.verdict is not None)
        assert isinstance(app.screen, NewScreen)
        assert app.screen.draft.origin == "lstm"


async def test_errors_of_background_work_are_shown_and_can_be_copied() -> None:
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        app.in_background(lambda: {}["[red]x[/]"], lambda _: None)
        await until(pilot, lambda: isinstance(app.screen, ErrorDialog))
        assert "[red]x[/]" in text(app)
        await pilot.press("c")
        assert "KeyError: '[red]x[/]'" in app.clipboard
        await pilot.press("enter")
        assert isinstance(app.screen, RunsScreen)


async def test_gpus_stand_in_the_top_line() -> None:
    app = TraindeckApp(machine=workstation())
    async with app.run_test(size=(120, 24)) as pilot:
        await until(pilot, lambda: "2 x GeForce RTX 4090 24.0 GiB, 16 cores, 64.0 GiB" in text(app))


@pytest.mark.parametrize("place", ["runs", "new", "profiles", "devices"])
def test_every_place_with_a_key_is_in_the_registry(place: str) -> None:
    assert f"app.show('{place}')" in [action.name for action in actions_of(ANYWHERE)]


WALK = """
import asyncio, sys
from tui.app import TraindeckApp
from tui.feeds import FeedFailed
async def walk():
    app = TraindeckApp()
    async with app.run_test(size=(80, 24)) as pilot:
        for key in ("n", "ctrl+o", "escape", "p", "d", "r", "question_mark", "escape"):
            await pilot.press(key)
            await pilot.pause(0.2)
        assert app.machine is not None
asyncio.run(walk())
heavy = {"torch", "lightning", "numpy", "transformers", "datasets", "pyarrow", "tokenizers"}
found = sorted(heavy & set(sys.modules))
assert not found, found
"""


def test_no_screen_imports_torch_or_numpy(tmp_path: Path) -> None:
    environment = {**os.environ, "TRAINDECK_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", WALK], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


async def test_an_error_in_what_follows_a_job_is_shown() -> None:
    app = deck()

    def stumble(_: object) -> None:
        raise KeyError("what came of it")

    async with app.run_test(size=(80, 24)) as pilot:
        app.in_background(lambda: 1, stumble)
        await until(pilot, lambda: isinstance(app.screen, ErrorDialog))
        assert "what came of it" in text(app)


async def test_a_feed_that_fails_is_seen() -> None:
    app = deck()
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        app.screen.post_message(FeedFailed(ValueError("not \x1b[2Jforeseen")))
        await until(pilot, lambda: "foreseen" in text(app))
        assert "may be old" in text(app)
