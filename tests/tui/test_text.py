"""Numbers, states and foreign text as people read them."""

from __future__ import annotations

import math
import unicodedata
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.contract.states import RunStateName
from tui import text


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (None, "n/a"), (math.nan, "n/a"), (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"),
        (100 * 2**20, "100 MiB"), (2**40 - 1, "1.0 TiB"), (-2048, "-2.0 KiB"), (2**70, "1048576 PiB"),
    ],
)  # fmt: skip
def test_bytes(count: float | None, shown: str) -> None:
    assert text.human_bytes(count) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (None, "n/a"), (math.inf, "n/a"), (0, "0"), (9999, "9,999"), (10_000, "10.0 K"), (999_600, "1.00 M"),
        (3_310_000, "3.31 M"), (124_439_808, "124 M"), (405e9, "405 B"), (-12_345, "-12.3 K"),
    ],
)  # fmt: skip
def test_counts(count: float | None, shown: str) -> None:
    assert text.human_count(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "n/a"), (0, "0.0 s"), (9.96, "10 s"), (59.7, "1 min 00 s"), (61, "1 min 01 s"), (3599.8, "1 h 00 min"),
        (7380, "2 h 03 min"), (3 * 86_400 + 4 * 3600, "3 d 4 h"), (-61, "-1 min 01 s"),
    ],
)  # fmt: skip
def test_durations(seconds: float | None, shown: str) -> None:
    assert text.human_duration(seconds) == shown


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "n/a"), (4.4, "4s"), (65, "1m05s"), (7500, "2h05m"), (200_000, "2d07h"), (float("inf"), "n/a")],
)
def test_short_durations(seconds: float | None, words: str) -> None:
    assert text.short_duration(seconds) == words


def test_short_durations_on_an_axis_and_coarse_ones() -> None:
    moments = (0.5, 90, 120, 5400, 7200, 86_400, 90_000)
    assert [text.short_duration(moment, even=True) for moment in moments] == [
        "0.5s", "1m30s", "2m", "1h30m", "2h", "1d", "1d01h",
    ]  # fmt: skip
    assert [text.short_duration(moment, coarse=True) for moment in (90, 5400, 90_000)] == ["1m", "1h", "1d"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "n/a"), (math.nan, "n/a"), (0, "0"), (3.2134567, "3.213"), (1e-4, "1e-4"), (3.25e-4, "3.25e-4"),
        (12_345.6, "12,346"), (1e9, "1e9"), (-0.5, "-0.5000"), (123.4, "123.4"),
    ],
)  # fmt: skip
def test_numbers(value: float | None, shown: str) -> None:
    assert text.human_number(value) == shown


def test_every_state_has_one_sign_of_one_cell_and_an_ascii_one() -> None:
    states = set(get_args(RunStateName))
    assert states == set(text.STATE_SYMBOLS) == set(text.ASCII_STATE_SYMBOLS)
    assert len(set(text.STATE_SYMBOLS.values())) == len(states) == len(set(text.ASCII_STATE_SYMBOLS.values()))
    assert all(len(sign) == text.cell_width(sign) == 1 for sign in text.STATE_SYMBOLS.values())
    assert all(sign.isascii() for sign in text.ASCII_STATE_SYMBOLS.values())
    assert text.state_symbol("of a later version") == "?"


def test_escape_sequences_become_visible() -> None:
    assert text.printable("a\x1b[31mred\x07\tb\r\nc") == "a␛[31mred␇    b\nc"
    assert text.printable("x\x9b2J\u202eevil\ud800") == "x\ufffd2J\ufffdevil\ufffd"
    assert text.printable("a\nb", newlines=False) == "a⏎b"
    assert text.printable("naïve 中文 👩\u200d💻") == "naïve 中文 👩\u200d💻"


@given(st.text(st.characters(), max_size=40))
def test_nothing_that_a_terminal_acts_on_remains(anything: str) -> None:
    shown = text.printable(anything)
    shown.encode("utf-8")
    assert all(c in "\n\u200c\u200d\ufe0f" or unicodedata.category(c) not in {"Cc", "Cf", "Cs"} for c in shown)


@given(st.text(st.sampled_from("ab中文́é👍"), max_size=20), st.integers(1, 12), st.booleans())
def test_fit_fills_exactly_its_width(anything: str, width: int, right: bool) -> None:
    assert text.cell_width(text.fit(anything, width, right=right)) == width


@given(st.text(st.sampled_from("ab中文\n"), max_size=30), st.integers(2, 12))
def test_wrap_loses_nothing_and_stays_within_its_width(anything: str, width: int) -> None:
    lines = text.wrap(anything, width)
    assert "".join(lines) == anything.replace("\n", "")
    assert all(text.cell_width(line) <= width for line in lines)


def test_table_columns_line_up_under_wide_text() -> None:
    lines = text.table(["name", "steps"], [["中文名", "5"], ["abc\x1b", "1,000"]], right=[1]).splitlines()
    assert lines == ["name    steps", "中文名      5", "abc␛    1,000"]
    assert {text.cell_width(line) for line in lines} == {13}


def test_pairs_indent_further_lines_of_a_value() -> None:
    assert text.pairs([("state", "running"), ("why", "a\nb")]) == "state  running\nwhy    a\n       b"
