"""The profiles: shipped and own ones, broken ones with their problem, and what can be done with each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from engine.contract.spec import BudgetSpec, RunSpec
from engine.contract.specfile import dump_spec, read_spec
from engine.runs import profiles as store
from engine.runs.storage import open_registry
from tests.tui.looking import text, until
from tests.tui.machines import LAPTOP
from tui.app import TraindeckApp
from tui.screens.dialogs import AskText, Confirm, ErrorDialog
from tui.screens.new import NewScreen
from tui.screens.profiles import ProfilesScreen
from tui.widgets.table import Table

MINE = RunSpec(name="mine", description="for [b]tests[/b]", budget=BudgetSpec(max_steps=11))


@pytest.fixture(autouse=True)
def own(home: Path) -> None:
    store.save_profile("mine", MINE)
    store.save_profile("broken", MINE)
    with open_registry() as registry:
        for document in registry.profiles.all():
            if document["name"] == "broken":
                registry.profiles.update({"toml": "lr = [\x1b[31m"}, doc_ids=[document.doc_id])


def deck() -> TraindeckApp:
    return TraindeckApp(machine=LAPTOP)


async def on(pilot: Pilot[Any], name: str) -> ProfilesScreen:
    """The screen with the cursor on a profile."""
    if not isinstance(pilot.app.screen, ProfilesScreen):
        await pilot.press("p")
    await until(
        pilot, lambda: isinstance(pilot.app.screen, ProfilesScreen) and bool(pilot.app.screen.query_one(Table).rows)
    )
    screen = pilot.app.screen
    assert isinstance(screen, ProfilesScreen)
    await pilot.press("g")
    for _ in screen.query_one(Table).rows:
        if screen.selected is not None and screen.selected.name == name:
            return screen
        await pilot.press("j")
    assert screen.selected is not None
    assert screen.selected.name == name
    return screen


async def answer(pilot: Pilot[Any], words: str) -> None:
    """Put a text into the dialog in front, and accept it."""
    await until(pilot, lambda: isinstance(pilot.app.screen, AskText))
    pilot.app.screen.query_one(Input).value = words
    await pilot.press("enter")


def names() -> list[str]:
    return [profile.name for profile in store.list_profiles() if profile.origin == "own"]


async def test_all_are_listed_with_what_they_say() -> None:
    app = deck()
    async with app.run_test(size=(120, 40)) as pilot:
        await on(pilot, "mine")
        await pilot.pause()
        page = text(app)
        assert "quickstart" in page
        assert "for [b]tests[/b]" in page
        assert "max_steps = 11" in page
        await on(pilot, "broken")
        await pilot.pause()
        page = text(app)
        assert "This profile is broken" in page
        assert "\x1b" not in page


async def test_enter_fills_the_form_in() -> None:
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        await on(pilot, "mine")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, NewScreen) and app.screen.is_judged)
        assert isinstance(app.screen, NewScreen)
        assert app.screen.draft.origin == "mine"
        assert app.screen.draft.texts["budget.max_steps"] == "11"


async def test_a_broken_one_is_refused_with_its_problem_and_can_be_deleted() -> None:
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        await on(pilot, "broken")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ErrorDialog))
        assert "not TOML" in " ".join(text(app).split())
        await pilot.press("enter", "X")
        assert isinstance(app.screen, Confirm)
        await pilot.press("y")
        await until(pilot, lambda: names() == ["mine"])


async def test_shipped_ones_cannot_be_changed_and_it_is_said() -> None:
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        await on(pilot, "quickstart")
        for key in ("X", "R"):
            await pilot.press(key)
            assert isinstance(app.screen, ProfilesScreen)
        said = [notification.message for notification in app._notifications]
        assert len(said) == 2
        assert "came with Traindeck and cannot be changed" in said[0]


async def test_clone_rename_delete() -> None:
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        await on(pilot, "quickstart")
        await pilot.press("c")
        assert isinstance(app.screen, AskText)
        await pilot.press("ctrl+u", *"copy", "enter")
        await until(pilot, lambda: "copy" in names())
        screen = await on(pilot, "copy")  # the cursor is on the new one
        await pilot.press("R", "ctrl+u", *"better", "enter")
        await until(pilot, lambda: "better" in names() and "copy" not in names())
        await until(pilot, lambda: screen.selected is not None and screen.selected.name == "better")
        await pilot.press("X", "n")
        assert "better" in names()
        await pilot.press("X", "y")
        await until(pilot, lambda: "better" not in names())


async def test_a_name_that_is_taken_is_refused() -> None:
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        await on(pilot, "mine")
        await pilot.press("R", "ctrl+u", *"lstm", "enter")
        await until(pilot, lambda: isinstance(app.screen, ErrorDialog))
        assert "The name is taken" in text(app)
        assert "mine" in names()


async def test_export_asks_before_it_replaces_a_file(tmp_path: Path) -> None:
    target = tmp_path / "out.toml"
    target.write_text("precious")
    app = deck()
    async with app.run_test(size=(120, 40)) as pilot:
        await on(pilot, "mine")
        await pilot.press("e")
        await answer(pilot, str(target))
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("n")
        assert target.read_text() == "precious"
        await pilot.press("e")
        await answer(pilot, str(target))
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("y")
        await until(pilot, lambda: target.read_text() != "precious")
        assert read_spec(target) == MINE


async def test_import_takes_a_file_and_refuses_a_broken_one(tmp_path: Path) -> None:
    (tmp_path / "found.toml").write_text(dump_spec(msgspec.structs.replace(MINE, name="theirs")))
    (tmp_path / "unnamed.toml").write_text("[budget]\nmax_steps = 3\n")
    (tmp_path / "senseless.toml").write_text("[optim]\nlr = -1.0\n")
    (tmp_path / "wrong.toml").write_text("learning_rat = 1")
    app = deck()
    async with app.run_test(size=(120, 40)) as pilot:
        await on(pilot, "mine")
        await pilot.press("i")
        await answer(pilot, str(tmp_path / "none.toml"))
        await until(pilot, lambda: isinstance(app.screen, ErrorDialog) and "No such file" in text(app))
        for name, said in (("wrong.toml", "learning_rat"), ("senseless.toml", "must be above 0")):
            await pilot.press("escape", "i")
            await answer(pilot, str(tmp_path / name))
            await until(pilot, lambda said=said: isinstance(app.screen, ErrorDialog) and said in text(app))  # type: ignore[misc]
        assert "senseless" not in names()
        await pilot.press("escape", "i")
        await answer(pilot, str(tmp_path / "found.toml"))
        await until(pilot, lambda: "theirs" in names())
        await pilot.press("i")
        await answer(pilot, str(tmp_path / "unnamed.toml"))
        await until(pilot, lambda: "unnamed" in names())


async def test_filter() -> None:
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await on(pilot, "quickstart")
        await pilot.press("slash", *"tests", "enter")
        await until(pilot, lambda: len(screen.query_one(Table).rows) == 1)
        assert screen.selected is not None
        assert screen.selected.name == "mine"
        await pilot.press("escape")
        await until(pilot, lambda: len(screen.query_one(Table).rows) > 2)


def shows(name: str, *keys: str) -> Callable[[Pilot[Any]], Awaitable[None]]:
    async def do(pilot: Pilot[Any]) -> None:
        await on(pilot, name)
        await pilot.press(*keys)
        await pilot.pause()

    return do


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", ["mine", "broken"])
def test_looks(name: str, size: tuple[int, int], snap_compare: Any) -> None:
    assert snap_compare(deck(), terminal_size=size, run_before=shows(name))


def test_looks_asking_for_a_name(snap_compare: Any) -> None:
    assert snap_compare(deck(), terminal_size=(80, 24), run_before=shows("mine", "R", "ctrl+u", "/"))


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_help_looks(size: tuple[int, int], snap_compare: Any) -> None:
    assert snap_compare(deck(), terminal_size=size, run_before=shows("mine", "question_mark"))


def test_an_error_looks(snap_compare: Any) -> None:
    assert snap_compare(deck(), terminal_size=(80, 24), run_before=shows("broken", "enter"))
