"""Painted panes and the chart: what is redrawn, and what is not."""

import re
from typing import Any

import pytest
from textual.app import App, ComposeResult
from textual.geometry import Region

from tests.tui.looking import shown
from tests.tui.recorded import started, train, validation
from tui.narrow import NarrowUpdate, narrow
from tui.state import RunView
from tui.widgets.chart import Chart
from tui.widgets.glyphs import glyphs
from tui.widgets.painted import Painted, Row, changed_spans, fit_row, row_width
from tui.widgets.plot import Line


class Harness(App[None]):
    def __init__(self, view: RunView) -> None:
        super().__init__()
        self.view = view
        self.asked: list[tuple[Region, ...]] = []

    def compose(self) -> ComposeResult:
        series, marks = self.view.series, glyphs().markers
        chart = Chart(
            "loss",
            [
                Line("train", series["train_loss"], "train", marks[0], smooth=True),
                Line("validation", series["validation_loss"], "validation", marks[1], short="val", marked=True),
            ],
        )
        chart.x_end = 1000.0
        yield chart


def filled(steps: int) -> RunView:
    view = RunView()
    view.apply(started())
    view.apply(validation(0))
    for step in range(1, steps + 1):
        view.apply(train(step))
    return view


def redrawn(chart: Painted, monkeypatch: pytest.MonkeyPatch) -> list[Region]:
    """Regions that the chart asks to be redrawn from now on; an empty one means all of it."""
    regions: list[Region] = []
    refresh = chart.refresh

    def note(*asked: Region, **how: Any) -> Any:
        regions.extend(asked or [Region()])
        return refresh(*asked, **how)

    monkeypatch.setattr(chart, "refresh", note)
    return regions


async def test_a_chart_has_its_title_legend_axes_and_curve() -> None:
    app = Harness(filled(500))
    async with app.run_test(size=(60, 14)):
        lines = shown(app)
        assert "loss" in lines[0]
        assert "train 2." in lines[0]
        assert "validation 9.0" in lines[0]
        assert lines[-1].rstrip().endswith("step ─╯")
        assert " 200 " in lines[-1]
        assert any("\u2801" <= sign <= "\u28ff" for line in lines for sign in line)


async def test_without_measurements_it_says_so() -> None:
    app = Harness(RunView())
    async with app.run_test(size=(60, 14)):
        assert any("no measurements yet" in line for line in shown(app))


async def test_nothing_new_redraws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Harness(filled(500))
    async with app.run_test(size=(60, 14)):
        chart = app.query_one(Chart)
        regions = redrawn(chart, monkeypatch)
        chart.repaint()
        assert regions == []


async def test_one_new_point_redraws_few_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    view = filled(520)
    app = Harness(view)
    async with app.run_test(size=(80, 20)) as pilot:
        chart = app.query_one(Chart)
        regions = redrawn(chart, monkeypatch)
        view.apply(train(521))
        chart.repaint()
        assert regions
        assert sum(region.area for region in regions) < 80
        await pilot.pause()
        assert chart._strips == [chart._strip(row, 80) for row in chart._rows]


async def test_what_is_on_the_screen_after_many_changes_is_what_a_fresh_chart_shows() -> None:
    view = filled(3)
    app = Harness(view)
    async with app.run_test(size=(70, 16)) as pilot:
        for step in range(4, 140):
            view.apply(train(step))
            if step % 25 == 0:
                view.apply(validation(step))
            app.query_one(Chart).repaint()
            if step % 10 == 0:
                await pilot.pause()
        await pilot.pause()
        grown = shown(app)
    fresh = Harness(view)
    async with fresh.run_test(size=(70, 16)):
        assert shown(fresh) == grown


async def test_the_axes_can_be_changed() -> None:
    app = Harness(filled(500))
    async with app.run_test(size=(60, 14)) as pilot:
        chart = app.query_one(Chart)
        before = shown(app)
        chart.log_y = True
        await pilot.pause()
        assert "loss log" in shown(app)[0]
        assert shown(app)[1:] != before[1:]
        chart.x = "tokens"
        await pilot.pause()
        assert "2M" in shown(app)[-1]
        assert "tokens" in shown(app)[-1]
        chart.x = "seconds"
        await pilot.pause()
        assert "trained time" in shown(app)[-1]


@pytest.mark.parametrize("size", [(20, 5), (8, 3), (5, 2), (3, 1)])
async def test_tiny_charts_do_not_break(size: tuple[int, int]) -> None:
    app = Harness(filled(50))
    async with app.run_test(size=size):
        assert len(shown(app)) == size[1]


async def test_ascii_draws_with_ascii_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINDECK_ASCII", "1")
    app = Harness(filled(300))
    async with app.run_test(size=(60, 14)):
        assert all(line.isascii() for line in shown(app))
        assert any("*" in line for line in shown(app)[1:-1])


async def test_without_colour_it_draws_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = Harness(filled(300))
    async with app.run_test(size=(60, 14)):
        assert "train" in shown(app)[0]


def test_changed_spans_are_exact_and_near_ones_are_joined() -> None:
    old: Row = [("abcdefghijklmnop", "a")]
    assert changed_spans(old, [("abXdefghijklmnop", "a")]) == [(2, 3)]
    assert changed_spans(old, [("Xbcdefghijklmnoq", "a")]) == [(0, 1), (15, 16)]
    assert changed_spans(old, [("XbcXefghijklmnop", "a")]) == [(0, 4)]
    assert changed_spans(old, [("abcd", "b"), ("efghijklmnop", "a")]) == [(0, 4)]
    assert changed_spans([("汉字ab", "")], [("汉子ab", "")]) == [(2, 3)]


def test_rows_are_cut_at_cells() -> None:
    assert fit_row([("汉字汉字", "a")], 5) == [("汉字 ", "a")]
    assert row_width(fit_row([("ab", "")], 7)) == 7


def applied(lines: list[str], written: str) -> list[str]:
    """``lines`` after a terminal took in ``written``: cursor movements, colours and narrow characters."""
    grid = [list(line) for line in lines]
    row = column = 0
    for part in re.split(r"(\x1b\[[0-9;]*[A-Za-z])", written):
        if part.endswith("H") and part.startswith("\x1b["):
            row, column = (int(number) - 1 for number in part[2:-1].split(";"))
        elif not part.startswith("\x1b"):
            for sign in part:
                grid[row][column] = sign
                column += 1
    return ["".join(line) for line in grid]


async def test_what_is_sent_for_a_change_makes_the_old_screen_the_new_one() -> None:
    view = filled(520)
    app = Harness(view)
    async with app.run_test(size=(80, 20)) as pilot:
        await pilot.pause()
        narrow(app.screen)
        compositor = app.screen._compositor
        compositor.reflow(app.screen, app.size)
        compositor.render_full_update()
        app.query_one(Chart)._exchange_repaint_regions()  # what opening the app asked for is on the screen by now
        before = shown(app)
        for step in range(521, 560):
            view.apply(train(step))
        view.apply(validation(559))
        chart = app.query_one(Chart)
        chart.repaint()
        compositor.update_widgets({chart})
        update = compositor.render_partial_update()
        assert isinstance(update, NarrowUpdate)
        written = update.render_segments(app.console)
        assert shown(app) != before
        assert applied(before, written) == shown(app)
        assert len(re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", written)) < 300
