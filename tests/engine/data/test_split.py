"""Holding out: the asked-for share, never a text on both sides, and frequent texts do not take everything along."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.contract.errors import DataError
from engine.data.split import Hashes, Held, choose_held_out


def split(hashes: list[int], fraction: float) -> Held:
    def read() -> Iterator[Hashes]:
        for start in range(0, len(hashes), 3):
            yield np.array(hashes[start : start + 3], dtype=np.uint64)

    return choose_held_out(read, fraction)


def test_different_texts_are_held_out_in_the_share_asked_for() -> None:
    hashes = [int(number) for number in np.random.default_rng(1).integers(0, 2**64, 1000, dtype=np.uint64)]
    held = split(hashes, 0.05)
    assert held.documents == 50
    assert sorted(hashes)[:50] == sorted(number for number in hashes if held.first <= number <= held.last)


@pytest.mark.parametrize("frequent", [0, 1, 2**63, 2**64 - 1])
def test_a_text_that_fills_the_data_stays_in_training(frequent: int) -> None:
    others = [10, 2**40, 2**63 + 5]
    held = split([frequent] * 500 + others, 0.02)
    assert held.documents <= len(others)
    assert not held.first <= frequent <= held.last


@given(
    st.lists(st.sampled_from([0, 1, 2, 7, 2**48, 2**63, 2**64 - 2, 2**64 - 1]), min_size=2, max_size=60),
    st.floats(min_value=0.001, max_value=0.999),
)
def test_both_sides_always_get_something(hashes: list[int], fraction: float) -> None:
    if len(set(hashes)) == 1:
        with pytest.raises(DataError, match="equal documents"):
            split(hashes, fraction)
        return
    held = split(hashes, fraction)
    inside = sum(held.first <= number <= held.last for number in hashes)
    assert held.documents == inside
    assert 0 < inside < len(hashes)


def test_no_document_is_said() -> None:
    with pytest.raises(DataError, match="no document"):
        split([], 0.1)
