"""Dots in cells, ticks on axes, and curves in both."""

import math

import pytest

from tests.tui.recorded import train
from tui.series import Table
from tui.state import RunView
from tui.text import ascii_wanted
from tui.widgets.axes import linear_scale, log_scale, reach, tick_labels, x_label, x_scale
from tui.widgets.glyphs import ASCII, UNICODE, bar, drawing, history
from tui.widgets.plot import Columns, Line, Plot, View, smooth
from tui.widgets.raster import Raster


def text(raster: Raster) -> list[str]:
    return ["".join(piece for piece, _ in row) for row in raster.lines()]


def test_braille_dots_are_where_unicode_says() -> None:
    raster = Raster(2, 1, "braille")
    for column, row in ((0, 0), (1, 3), (2, 1)):
        raster.span(column, row, row, "a")
    assert text(raster) == [chr(0x2800 + 0x01 + 0x80) + chr(0x2800 + 0x02)]


def test_a_span_fills_across_cells_and_is_clipped() -> None:
    raster = Raster(1, 3, "braille")
    raster.span(0, 2, 100, "a")
    raster.span(5, 0, 0, "a")
    assert text(raster) == [chr(0x2800 + 0x04 + 0x40), "⡇", "⡇"]


def test_block_and_ascii() -> None:
    raster = Raster(1, 1, "block")
    raster.span(1, 0, 1, "a")
    assert text(raster) == ["▐"]
    plain = Raster(2, 1, "ascii")
    plain.name_style("b", "o")
    plain.span(0, 0, 0, "a")
    plain.span(1, 0, 0, "b")
    assert text(plain) == ["*o"]


def test_the_curve_on_top_covers_the_cell_and_does_not_mix() -> None:
    raster = Raster(1, 1, "braille")
    raster.span(0, 0, 3, "under")
    raster.span(1, 0, 0, "over")
    assert raster.lines() == [[(chr(0x2808), "over")]]


@pytest.mark.parametrize(("low", "high"), [(2.1, 8.7), (0.0, 1.0), (-3.0, 5.5), (1e-5, 3e-4), (5.0, 5.0), (1e6, 4e6)])
def test_linear_scales_take_in_both_ends_at_round_numbers(low: float, high: float) -> None:
    scale = linear_scale(low, high, 4)
    assert scale.low <= low <= high <= scale.high
    assert 2 <= len(scale.ticks) <= 8
    assert all(scale.low - 1e-9 <= tick <= scale.high + 1e-9 for tick in scale.ticks)
    assert 0 <= scale.place(low) <= scale.place(high) <= 1
    assert len(set(tick_labels(scale.ticks))) == len(scale.ticks)


@pytest.mark.parametrize(("low", "high"), [(9.2, 8100.0), (1.0, 1.2), (0.02, 0.5), (3.0, 3.0), (1e-6, 1e9)])
def test_logarithmic_scales_do_so_too(low: float, high: float) -> None:
    scale = log_scale(low, high, 4)
    assert scale.low <= low * 1.0001
    assert high <= scale.high * 1.0001
    assert len(scale.ticks) >= 2
    assert scale.place(0.0) == -math.inf


def test_the_end_of_the_x_axis_seldom_moves_and_not_past_the_plan() -> None:
    ends = {reach(float(step), 1000.0) for step in range(1, 1001)}
    assert len(ends) < 40
    assert max(ends) == 1000.0
    assert all(reach(float(step)) >= step for step in range(1, 5000))
    assert reach(1200.0, 1000.0) == 1200.0


def test_labels_of_the_x_axis() -> None:
    assert x_label("tokens", 2.5e6) == "2.5M"
    assert [x_label("seconds", seconds) for seconds in (90.0, 5400.0)] == ["1m30s", "1h30m"]
    assert x_scale(0.0, 3600.0, 4, seconds=True).ticks == (0, 900, 1800, 2700, 3600)


def curve(values: list[float | None]) -> Table:
    table = Table(("y",))
    for index, value in enumerate(values):
        table.append(index, index, index, (value,))
    return table


def test_one_extreme_among_a_hundred_thousand_points_is_drawn() -> None:
    values: list[float | None] = [1.0] * 100_000
    values[54_321] = 9.0
    values[70_000] = -9.0
    line = Line("y", curve(values).series["y"], "train", "*")
    picture = Plot().draw([line], View(), 60, 10, "|")
    rows = ["".join(piece for piece, style in row if style == "train").strip() for row in picture.rows]
    assert rows[0]
    assert rows[-1]


def test_gaps_are_gaps() -> None:
    values: list[float | None] = [1.0] * 40 + [None] * 40 + [1.0] * 20
    found = Columns().of(curve(values).series["y"], "step", 0.0, 99.0, 100)
    assert sorted(found) == [*range(40), *range(80, 100)]
    assert not found[80].joined
    assert found[81].joined


def test_columns_found_bit_by_bit_are_those_found_at_once() -> None:
    table = Table(("y",))
    columns = Columns()
    for step in range(1000):
        table.append(step, step, step, (None if step % 97 == 5 else math.sin(step / 30),))
        if step % 13 == 0:
            columns.of(table.series["y"], "step", 0.0, 999.0, 80)
    assert columns.of(table.series["y"], "step", 0.0, 999.0, 80) == Columns().of(
        table.series["y"], "step", 0.0, 999.0, 80
    )


def test_smoothing_has_no_lag_and_no_bias() -> None:
    flat = Columns().of(curve([3.0] * 50).series["y"], "step", 0.0, 49.0, 50)
    assert all(value == pytest.approx(3.0) for value, _ in smooth(flat).values())
    slope = Columns().of(curve([float(n) for n in range(50)]).series["y"], "step", 0.0, 49.0, 50)
    assert smooth(slope)[25][0] == pytest.approx(25.0, abs=0.1)


def test_sparse_points_stand_as_symbols_beside_a_full_curve() -> None:
    view = RunView()
    for step in range(1, 101):
        view.apply(train(step))
    line = Line("val", curve([4.0, 3.0, 2.0]).series["y"], "validation", "◆", marked=True)
    picture = Plot().draw([Line("train", view.series["train_loss"], "train", "━"), line], View(), 60, 8, "┤")
    assert sum(piece.count("◆") for row in picture.rows for piece, _ in row) == 3


def test_a_chart_without_finite_points_is_empty_and_not_an_error() -> None:
    picture = Plot().draw([Line("y", curve([None, None]).series["y"], "train", "*")], View(log_y=True), 30, 5, "|")
    assert len(picture.rows) == 5


def test_bars_and_histories() -> None:
    assert bar(0.5, 10, UNICODE) == ("━━━━━", "─────")
    assert bar(0.001, 4, UNICODE) == ("╸", "───")
    assert bar(None, 4, ASCII) == ("", "....")
    assert history([0.0, math.nan, 1.0], 5, UNICODE) == "  ▁ ▇"


def test_what_the_terminal_can_show_is_asked_of_the_environment() -> None:
    assert ascii_wanted({"TRAINDECK_ASCII": "1"})
    assert not ascii_wanted({"TRAINDECK_ASCII": "0"})
    assert drawing({"TRAINDECK_ASCII": "0", "TERM": "linux"}) == "block"
    assert drawing({"TRAINDECK_ASCII": "0", "TERM": "xterm-256color"}) == "braille"
    assert drawing({"TRAINDECK_ASCII": "1", "TERM": "linux"}) == "ascii"
