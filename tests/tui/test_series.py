"""Curves: extremes, gaps, and taking points back."""

import math
import random
from array import array

import pytest

from tui.series import BLOCK, Derived, Table, perplexity


def filled(values: list[float | None]) -> Table:
    table = Table(("y",))
    for index, value in enumerate(values):
        table.append(index, index * 10, index * 0.5, (value,))
    return table


@pytest.mark.parametrize("gaps", [False, True])
def test_a_stretch_has_the_extremes_of_all_its_points(gaps: bool) -> None:
    generator = random.Random(4)
    values = [None if gaps and generator.random() < 0.1 else generator.gauss(0, 1) for _ in range(5 * BLOCK + 17)]
    series = filled(values).series["y"]
    for _ in range(200):
        start, end = sorted(generator.sample(range(len(values) + 1), 2))
        points = [value for value in values[start:end] if value is not None]
        found = series.stretch(start, end)
        if not points:
            assert found is None
            continue
        assert found is not None
        assert (found.low, found.high, found.count) == (min(points), max(points), len(points))
        assert found.mean == pytest.approx(sum(points) / len(points))
        assert found.gap == (len(points) < end - start)


def test_what_is_not_finite_is_a_gap() -> None:
    series = filled([1.0, math.inf, None, math.nan, 2.0]).series["y"]
    assert [math.isnan(y) for y in series.y] == [False, True, True, True, False]
    assert series.gaps(0, 5) == 3
    assert series.stretch(1, 4) is None


def test_many_rows_at_once_are_as_many_one_by_one() -> None:
    values = [1.0, math.nan, 3.0, math.inf]
    one = filled(values)
    many = Table(("y",))
    many.extend(
        (array("d", range(4)), array("d", range(0, 40, 10)), array("d", [0, 0.5, 1, 1.5])), (array("d", values),)
    )
    assert list(many.axes["tokens"]) == list(one.axes["tokens"])
    assert str(list(many.series["y"].y)) == str(list(one.series["y"].y))
    assert many.series["y"].gaps(0, 4) == 2


def test_a_resumed_run_replaces_the_points_it_makes_again() -> None:
    table = filled([float(index) for index in range(3 * BLOCK)])
    series = table.series["y"]
    assert series.stretch(0, len(series)).high == 3 * BLOCK - 1  # type: ignore[union-attr]
    before = table.generation
    table.drop_after(BLOCK)
    table.append(BLOCK + 1, 0, 0, (-5.0,))
    assert table.generation > before
    assert len(series) == BLOCK + 2
    found = series.stretch(0, len(series))
    assert found is not None
    assert (found.low, found.high) == (-5.0, BLOCK)


def test_a_row_at_a_known_step_replaces_it() -> None:
    table = filled([1.0, 2.0, 3.0])
    table.append(1, 10, 0.5, (9.0,))
    assert list(table.axes["step"]) == [0, 1]
    assert list(table.series["y"].y) == [1.0, 9.0]


def test_perplexity_is_derived_and_overflow_is_a_gap() -> None:
    series = filled([0.0, 1.0, 800.0]).series["y"]
    curve = Derived(series, perplexity)
    assert curve.value(1) == pytest.approx(math.e)
    assert math.isnan(curve.value(2))
    assert curve.last is None
    assert curve.stretch(0, 2).high == pytest.approx(math.e)  # type: ignore[union-attr]
