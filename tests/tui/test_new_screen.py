"""The form of a new training: problems where they belong, facts beside it, saving, starting, and nothing lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from textual.events import Key
from textual.pilot import Pilot

from engine.contract.machine import Machine
from engine.contract.spec import BudgetSpec, ModelSpec, OptimSpec, RunSpec, TokenizerSpec
from engine.contract.specfile import read_spec
from engine.runs import control
from engine.runs.home import home as home_folder
from engine.runs.home import runs_folder
from engine.runs.profiles import list_profiles, load_profile, save_profile
from engine.runs.status import list_runs, read_state
from tests.tui.looking import shown, text, until
from tests.tui.machines import LAPTOP, workstation
from tui.app import TraindeckApp
from tui.draft import FIELDS
from tui.screens.dialogs import AskText, Choose, Confirm, ErrorDialog
from tui.screens.monitor import MonitorScreen
from tui.screens.new import NewScreen
from tui.screens.new_form import Form
from tui.screens.new_panel import Panel
from tui.screens.runs import RunsScreen
from tui.strategies import STRATEGIES
from tui.text import wrap_words
from tui.widgets.field import FieldRow, path_matches

STUDY = RunSpec(
    name="study",
    tokenizer=TokenizerSpec(vocabulary=4096),
    model=ModelSpec(preset="llama-3m"),
    optim=OptimSpec(lr=3e-3, batch_size=16),
    budget=BudgetSpec(max_steps=300),
)
"""What the form is filled in with: the shipped profiles may change."""


@pytest.fixture(autouse=True)
def study(home: Path) -> None:
    save_profile("study", STUDY)


def deck(machine: Machine = LAPTOP) -> TraindeckApp:
    return TraindeckApp(machine=machine, profile="study")


async def opened(pilot: Pilot[Any]) -> NewScreen:
    """The form, filled in and judged."""
    await until(pilot, lambda: isinstance(pilot.app.screen, NewScreen) and pilot.app.screen.verdict is not None)
    screen = pilot.app.screen
    assert isinstance(screen, NewScreen)
    return screen


async def typed(pilot: Pilot[Any], name: str, words: str) -> None:
    """Replace the text of a field by keys, and wait for the judgement of it."""
    screen = pilot.app.screen
    assert isinstance(screen, NewScreen)
    assert screen.query_one(Form).focus_field(name)
    await pilot.pause()
    await pilot.press("end", "ctrl+u", *words)
    assert screen.draft.texts[name] == words
    await judged(pilot)


async def judged(pilot: Pilot[Any]) -> None:
    screen = pilot.app.screen
    assert isinstance(screen, NewScreen)
    await until(pilot, lambda: screen.is_judged)


def panel(app: TraindeckApp) -> str:
    """The words beside the form."""
    return " ".join(" ".join(line.partition("│")[2] for line in shown(app)).split())


def problem_of(screen: NewScreen, name: str) -> str:
    return screen.query_one(Form).row(name).problem


async def test_a_problem_stands_under_its_field_while_it_is_typed() -> None:
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await typed(pilot, "optim.lr", "-1")
        assert "must be above 0" in problem_of(screen, "optim.lr")
        lines = shown(app)
        row = next(index for index, line in enumerate(lines) if "Learning rate" in line[:44])
        assert "must be above 0" in lines[row + 1]
        await typed(pilot, "optim.lr", "0.01")
        assert problem_of(screen, "optim.lr") == ""
        assert screen.verdict is not None
        assert screen.verdict.problems == ()


async def test_the_panel_has_exact_size_memory_tokens_and_command() -> None:
    app = deck()
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        await typed(pilot, "budget.max_steps", "100")
        await typed(pilot, "layout.devices", "2")
        assert screen.verdict is not None
        page = panel(app)
        assert f"{screen.verdict.parameters:,} parameters" in page
        assert "fits in 12.0 GiB free" in page
        assert "ddp on 2 x cpu, fp32" in page
        assert "16 x 256 = 4,096 tokens" in page
        assert "100 steps, 410 K tokens" in page
        assert "--set budget.max_steps=100" in page
        assert screen.verdict.command.endswith("--set budget.max_steps=100 --set layout.devices=2")


async def test_every_press_of_a_fast_hand_counts() -> None:
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        form = screen.query_one(Form)
        rows = [row for row in form.query(FieldRow) if row.display]
        assert form.focus_field(rows[0].field.name)
        await pilot.pause()

        def press(*keys: tuple[str, str | None]) -> None:
            for key, character in keys:
                app.post_message(Key(key, character))

        press(*[("down", None)] * 5)
        await until(pilot, lambda: rows[5].has_focus_within)
        press(*[("up", None)] * 3)
        await until(pilot, lambda: rows[2].has_focus_within)
        place = next(index for index, row in enumerate(rows) if row.field.name == "optim.lr")
        press(*[("down", None)] * (place - 2), ("end", None), ("ctrl+u", None), ("7", "7"))
        await until(pilot, lambda: screen.draft.texts["optim.lr"] == "7")


async def test_more_devices_than_there_are_is_told_at_the_field() -> None:
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await typed(pilot, "layout.devices", "64")
        assert "64 devices are asked for" in problem_of(screen, "layout.devices")


async def test_the_fields_of_the_chosen_strategy_stand_below_it_and_the_mesh_beside() -> None:
    app = deck(workstation(4))
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        form = screen.query_one(Form)
        assert not form.shows("layout.stages")
        form.put("layout.strategy", "pipeline")
        await until(pilot, lambda: form.shows("layout.stages"))
        shown_rows = [row.field.name for row in screen.query(FieldRow) if row.display]
        place = shown_rows.index("layout.strategy")
        belonging = ["layout.strategy", "layout.pp", "layout.schedule", "layout.stages", "layout.accelerator"]
        assert shown_rows[place : place + 5] == belonging
        await judged(pilot)
        await typed(pilot, "layout.stages", "2,2,1,1")
        assert screen.verdict is not None
        assert screen.verdict.problems == ()
        assert screen.verdict.spec.layout.stages == (2, 2, 1, 1)
        page = panel(app)
        assert "pp 0 │ 0 │ layers 0-1" in page
        assert "pp 3 │ 3 │ layer 5" in page
        assert "'layout.stages=[2,2,1,1]'" in page


async def test_sizes_of_another_strategy_are_put_aside_and_come_back() -> None:
    app = deck(workstation(4))
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        form, texts = screen.query_one(Form), screen.draft.texts
        form.put("layout.strategy", "hybrid")
        await until(pilot, lambda: form.shows("layout.cp"))
        await typed(pilot, "layout.pp", "2")
        await typed(pilot, "layout.tp", "2")
        form.put("layout.strategy", "tensor")
        await until(pilot, lambda: not form.shows("layout.pp"))
        await judged(pilot)
        assert (texts["layout.pp"], texts["layout.tp"]) == ("", "2")
        form.put("layout.strategy", "hybrid")
        await until(pilot, lambda: form.shows("layout.pp"))
        await judged(pilot)
        assert (texts["layout.pp"], texts["layout.tp"]) == ("2", "2")
        assert form.row("layout.pp").text == "2"
        assert screen.verdict is not None
        assert screen.verdict.spec.layout.pp == 2


async def test_what_a_network_cannot_be_split_into_is_told_at_the_size_even_of_another_strategy() -> None:
    app = deck(workstation(4))
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        form = screen.query_one(Form)
        form.put("layout.strategy", "tensor")
        await until(pilot, lambda: form.shows("layout.tp"))
        await judged(pilot)
        await typed(pilot, "layout.devices", "4")
        assert "heads cannot be split over tp = 4" in problem_of(screen, "layout.tp")
        form.put("layout.strategy", "fsdp")
        await until(pilot, lambda: not form.shows("layout.tp"))
        await pilot.press("ctrl+o")
        await until(pilot, lambda: form.shows("layout.virtual_stages"))
        await typed(pilot, "layout.virtual_stages", "2")
        await pilot.press("ctrl+o")
        await until(pilot, lambda: not form.shows("layout.compile"))
        assert "there is no pipeline" in problem_of(screen, "layout.virtual_stages")


async def test_the_strategies_are_listed_with_a_line_each() -> None:
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        screen.query_one(Form).focus_field("layout.strategy")
        await pilot.pause()
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Choose))
        page = text(app)
        for name, line in STRATEGIES.items():
            assert name in page
            assert line in page
        await pilot.press(*"hsd", "enter")
        await until(pilot, lambda: screen.draft.texts["layout.strategy"] == "hsdp")
        assert "the groups are copies" in " ".join(panel(app).split())


async def test_every_field_is_reachable() -> None:
    app = deck()
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        rows = screen.query(FieldRow)
        assert len([row for row in rows if row.display]) < 30
        await pilot.press("ctrl+o")
        await until(pilot, lambda: len(screen.query(FieldRow)) == len(FIELDS))
        assert {row.field.name for row in screen.query(FieldRow) if row.display} == set(FIELDS)
        await typed(pilot, "model.heads", "5")
        assert "does not divide into 5 heads" in problem_of(screen, "model.heads")
        await pilot.press("ctrl+o")
        await until(pilot, lambda: not screen.query_one(Form).shows("model.heads"))
        assert "Heads: hidden size 192 does not divide into 5" in panel(app)


async def test_start_with_a_problem_goes_to_its_field_even_if_it_is_folded_away() -> None:
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await pilot.press("ctrl+o")
        await until(pilot, lambda: screen.query_one(Form).shows("model.heads"))
        await typed(pilot, "model.heads", "5")
        await pilot.press("ctrl+o", "ctrl+t")
        await until(pilot, lambda: screen.query_one(Form).shows("model.heads"))
        await until(pilot, lambda: screen.query_one(Form).row("model.heads").has_focus_within)
        assert list_runs() == []


async def test_keys_that_arrive_together_keep_their_order() -> None:
    """As they do over a slow connection: the field is emptied, typed into and left, in one breath."""
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        screen.query_one(Form).focus_field("name")
        await pilot.pause()
        for key in ("ctrl+u", "a", "b", "tab", "ctrl+u", "x"):
            pilot._app.simulate_key(key)
        await until(pilot, lambda: screen.draft.texts["data.source"] == "x")
        assert screen.draft.texts["name"] == "ab"


async def test_typing_in_a_field_that_was_gone_to_replaces_it() -> None:
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        texts = screen.draft.texts
        assert screen.query_one(Form).focus_field("optim.batch_size")
        await pilot.pause()
        await pilot.press("down", *"12")
        assert texts["optim.lr"] == "12"
        await pilot.press("up", "down", "end", "0")
        assert texts["optim.lr"] == "120"
        await pilot.press("up", "down", "left", "3")
        assert texts["optim.lr"] == "3120"
        await pilot.press("up", "down", "home", "4")
        assert texts["optim.lr"] == "43120"


async def test_filling_the_form_in_again_keeps_the_cursor_in_what_stays() -> None:
    """As saving does while somebody types on."""
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        form = screen.query_one(Form)
        form.focus_field("name")
        await pilot.pause()
        await pilot.press(*"on")
        form.fill(screen.draft.texts)
        await pilot.press("e")
        assert screen.draft.texts["name"] == "one"
        form.fill({**screen.draft.texts, "name": "other"})
        await pilot.press("x")
        assert screen.draft.texts["name"] == "x"


async def test_arrows_enter_and_letters_work_through_the_form() -> None:
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        form = screen.query_one(Form)
        form.focus_field("name")
        await pilot.pause()
        await pilot.press("enter")
        assert form.row("data.source").has_focus_within
        await pilot.press("down", "right")
        assert screen.draft.texts["data.format"] == "text"
        await pilot.press("h")
        assert screen.draft.texts["data.format"] == "huggingface-disk"
        await pilot.press("pagedown")
        assert form.row("tokenizer.kind").has_focus_within
        await pilot.press("pageup", "up")
        assert form.row("name").has_focus_within


async def test_a_size_is_chosen_from_a_list_with_parameter_counts() -> None:
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        screen.query_one(Form).focus_field("model.preset")
        await pilot.pause()
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Choose))
        assert "3.15 M" in text(app)
        await pilot.press(*"gpt2-124", "enter")
        await until(pilot, lambda: screen.draft.texts["model.preset"] == "gpt2-124m")
        await judged(pilot)
        assert screen.verdict is not None
        assert screen.verdict.shape is not None
        assert screen.verdict.shape.family == "gpt2"


async def test_paths_are_completed_as_they_are_typed(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "books.txt").write_text("Once upon a time there was a file.\n" * 50)
    app = deck()
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        form = screen.query_one(Form)
        form.focus_field("data.source")
        form.put("data.source", f"{tmp_path}/co")
        await pilot.pause()
        await pilot.press("end", "r", "p")
        await until(pilot, lambda: screen.draft.texts["data.source"] == f"{tmp_path}/corp")
        await judged(pilot)
        assert "there is no file or folder" in problem_of(screen, "data.source")
        line = screen.query_one(Form).row("data.source").editor
        await until(pilot, lambda: getattr(line, "_suggestion", "") == f"{tmp_path}/corpus/")
        await pilot.press("right")
        await until(pilot, lambda: screen.draft.texts["data.source"] == f"{tmp_path}/corpus/")
        await judged(pilot)
        assert problem_of(screen, "data.source") == ""


def test_path_matches(tmp_path: Path) -> None:
    tmp_path = tmp_path / "folder"
    (tmp_path / "ab").mkdir(parents=True)
    for name in ("b", "a", ".hidden"):
        (tmp_path / name).touch()
    assert path_matches(f"{tmp_path}/", 9) == [f"{tmp_path}/a", f"{tmp_path}/ab/", f"{tmp_path}/b"]
    assert path_matches(f"{tmp_path}/.", 9) == [f"{tmp_path}/.hidden"]
    assert path_matches(f"{tmp_path}/none/x", 9) == []
    assert path_matches("a\0b", 9) == []


async def test_saved_under_a_name_and_the_form_goes_on_from_it(home: Path) -> None:
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await typed(pilot, "budget.max_steps", "7")
        await pilot.press("ctrl+s")
        assert isinstance(app.screen, AskText)
        await pilot.press(*"no/good", "enter")
        assert isinstance(app.screen, AskText)  # refused, with the reason
        assert "a name is made of letters" in text(app)
        await pilot.press("ctrl+u", *"mine", "enter")
        await until(pilot, lambda: screen.draft.origin == "mine")
        assert load_profile("mine").budget.max_steps == 7
        assert screen.query_one(Form).row("name").text == "mine"
        assert not screen.draft.changed


async def test_what_cannot_be_run_is_not_saved(home: Path) -> None:
    app = deck()
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        screen = await opened(pilot)
        await typed(pilot, "optim.lr", "-1")
        await pilot.press("ctrl+s", *"bad", "enter")
        await until(pilot, lambda: any("must be above 0" in toast.message for toast in app._notifications))
        assert app.screen is screen
        assert "bad" not in [profile.name for profile in list_profiles()]
        await typed(pilot, "optim.lr", "fast")
        await pilot.press("ctrl+s")
        await until(pilot, lambda: any("before this can be saved" in toast.message for toast in app._notifications))


async def test_shipped_profiles_are_not_overwritten_and_own_ones_only_when_asked(home: Path) -> None:
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await pilot.press("ctrl+s", *"lstm", "enter")
        await until(pilot, lambda: isinstance(app.screen, ErrorDialog))
        assert "Shipped profiles cannot be changed" in " ".join(text(app).split())
        await pilot.press("enter", "ctrl+s", *"mine", "enter")
        await until(pilot, lambda: screen.draft.origin == "mine")
        await typed(pilot, "budget.max_steps", "9")
        await pilot.press("ctrl+s", *"mine", "enter")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("y")
        await until(pilot, lambda: load_profile("mine").budget.max_steps == 9)


async def test_another_profile_replaces_what_is_typed_only_when_asked() -> None:
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await typed(pilot, "name", "precious")
        await pilot.press("ctrl+l")
        await until(pilot, lambda: isinstance(app.screen, Choose))
        await pilot.press(*"lstm", "enter")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("n")
        assert screen.draft.texts["name"] == "precious"
        await pilot.press("ctrl+l")
        await until(pilot, lambda: isinstance(app.screen, Choose))
        await pilot.press(*"lstm", "enter")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("y")
        await until(pilot, lambda: screen.draft.origin == "lstm")
        assert screen.query_one(Form).row("name").text == "lstm"


async def test_leaving_and_coming_back_keeps_what_was_typed() -> None:
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await typed(pilot, "name", "kept")
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, RunsScreen))
        await pilot.press("n")
        assert app.screen is screen
        assert screen.query_one(Form).row("name").text == "kept"


async def test_the_command_is_copied() -> None:
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(pilot)
        await typed(pilot, "name", "a b")
        await pilot.press("ctrl+y")
        assert app.clipboard == "traindeck train study --set 'name=a b'"


async def test_a_model_that_may_not_fit_is_started_only_when_asked() -> None:
    app = deck(workstation())
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        screen.query_one(Form).put("model.preset", "llama-70b")
        await pilot.pause()
        await judged(pilot)
        assert "does not fit in" in panel(app)
        assert "needs" in problem_of(screen, "model.preset")
        await pilot.press("ctrl+t")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("n")
        assert isinstance(app.screen, NewScreen)
        assert list_runs() == []


async def test_hostile_text_is_shown_and_not_obeyed() -> None:
    app = deck()
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        screen.query_one(Form).put("name", "[red]x[/] \x1b[2J")
        await pilot.pause()
        await judged(pilot)
        assert "[red]x[/] ␛[2J" in text(app)
        assert "\x1b" not in text(app)


async def test_an_error_of_the_start_is_shown_and_nothing_typed_is_lost(home: Path) -> None:
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await typed(pilot, "name", "kept")
        (home_folder() / "runs").rmdir() if (home_folder() / "runs").exists() else None
        (home_folder() / "runs").write_text("in the way")
        await pilot.press("ctrl+t")
        await until(pilot, lambda: isinstance(app.screen, ErrorDialog))
        assert "is a file, and a folder is needed" in " ".join(text(app).split())
        await pilot.press("enter")
        assert screen.draft.texts["name"] == "kept"
        assert screen.query_one(Panel).query_one("#start").disabled is False


async def test_two_keys_start_a_real_training_that_outlives_the_app(tmp_path: Path, home: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("The quick brown fox jumps over the lazy dog.\n" * 4000)
    app = TraindeckApp()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "No runs yet" in text(app))
        await pilot.press("enter")
        screen = await opened(pilot)
        for name, words in {
            "data.source": str(corpus), "tokenizer.kind": "bytes", "model.preset": "llama-1m", "optim.batch_size": "4",
            "layout.micro_batch": "4", "data.sequence_length": "32", "budget.max_steps": "1000000",
        }.items():  # fmt: skip
            screen.query_one(Form).put(name, words)
        await pilot.pause()
        await pilot.press("ctrl+t")
        await until(pilot, lambda: isinstance(app.screen, MonitorScreen))
        assert isinstance(app.screen, MonitorScreen)
        run = app.screen.run
    assert run.path.parent == runs_folder()
    assert read_spec(run.spec).data.source == str(corpus)
    try:
        assert read_state(run)[0] in {"starting", "running"}
    finally:
        command = control.request(run, "stop")
        done = control.wait_for(run, command, 100)
    assert done is not None
    assert done.accepted


def test_words_are_wrapped_at_spaces_and_long_ones_cut() -> None:
    assert wrap_words("one two three", 8) == ["one two", "three"]
    assert wrap_words("abcdefghij", 4) == ["abcd", "efgh", "ij"]
    assert wrap_words("", 4) == []


def test_profiles_that_ship_are_all_sound() -> None:
    assert [profile.name for profile in list_profiles() if profile.spec is None] == []


Step = Callable[[Pilot[Any]], Awaitable[None]]
SIZES = pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=lambda size: f"{size[0]}x{size[1]}")


def after(*keys: str, fields: dict[str, str] | None = None) -> Step:
    async def do(pilot: Pilot[Any]) -> None:
        screen = await opened(pilot)
        for name, words in (fields or {}).items():
            screen.query_one(Form).put(name, words)
        await pilot.pause()
        await judged(pilot)
        await pilot.press(*keys)
        await pilot.pause()
        await pilot.wait_for_scheduled_animations()

    return do


@SIZES
def test_looks(size: tuple[int, int], snap_compare: Any) -> None:
    assert snap_compare(deck(), terminal_size=size, run_before=after())


@SIZES
def test_looks_with_a_hybrid_layout(size: tuple[int, int], snap_compare: Any) -> None:
    async def do(pilot: Pilot[Any]) -> None:
        screen = await opened(pilot)
        form = screen.query_one(Form)
        form.put("layout.strategy", "hybrid")
        await until(pilot, lambda: form.shows("layout.tp"))
        form.put("layout.pp", "2")
        form.put("layout.tp", "2")
        form.focus_field("layout.precision")
        form.focus_field("layout.cp")
        await pilot.pause()
        await judged(pilot)
        await pilot.pause()
        await pilot.wait_for_scheduled_animations()

    assert snap_compare(deck(workstation(8)), terminal_size=size, run_before=do)


@SIZES
def test_looks_with_problems(size: tuple[int, int], snap_compare: Any) -> None:
    do = after("tab", fields={"optim.lr": "-1", "layout.devices": "9"})
    assert snap_compare(deck(), terminal_size=size, run_before=do)


@SIZES
def test_looks_with_a_model_that_does_not_fit(size: tuple[int, int], snap_compare: Any) -> None:
    do = after(fields={"model.preset": "llama-70b", "layout.devices": "2"})
    assert snap_compare(deck(workstation()), terminal_size=size, run_before=do)


def test_looks_with_all_fields(snap_compare: Any) -> None:
    async def do(pilot: Pilot[Any]) -> None:
        await after("ctrl+o")(pilot)
        form = pilot.app.screen.query_one(Form)
        await until(pilot, lambda: form.shows("model.heads"))

    assert snap_compare(deck(), terminal_size=(120, 40), run_before=do)


@SIZES
def test_looks_choosing_a_size(size: tuple[int, int], snap_compare: Any) -> None:
    async def do(pilot: Pilot[Any]) -> None:
        screen = await opened(pilot)
        screen.query_one(Form).focus_field("model.preset")
        await pilot.pause()
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, Choose))
        await pilot.pause()

    assert snap_compare(deck(), terminal_size=size, run_before=do)
