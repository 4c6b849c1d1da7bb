import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data.batches import Batches, sample_count, validation_batches
from engine.data.permutation import Permutation

seeds = st.integers(0, 2**63 - 1)


def _tokens(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.uint32)


@given(size=st.integers(1, 3000), seed=seeds, epoch=st.integers(0, 50))
def test_a_permutation_reaches_every_place_once(size: int, seed: int, epoch: int) -> None:
    assert sorted(Permutation(size, seed, epoch).apply(np.arange(size)).tolist()) == list(range(size))


@pytest.mark.parametrize("size", [2**33 + 7, 2**40])
def test_a_permutation_of_more_than_memory_holds(size: int) -> None:
    places = Permutation(size, 1, 0).apply(np.arange(10_000))
    assert len(set(places.tolist())) == 10_000
    assert int(places.max()) < size
    assert float(places.astype(float).mean()) / size == pytest.approx(0.5, abs=0.02)


@settings(max_examples=50, deadline=None)
@given(count=st.integers(10, 2000), length=st.integers(2, 9), seed=seeds, epoch=st.integers(0, 5))
def test_an_epoch_holds_every_sample_once(count: int, length: int, seed: int, epoch: int) -> None:
    batches = Batches(_tokens(count), length, seed)
    samples = batches.samples_per_epoch
    assert samples == sample_count(count, length) == (count - 1) // length
    batch = batches.batch(np.arange(epoch * samples, (epoch + 1) * samples))
    assert batch.shape == (samples, length + 1)
    assert batch.dtype == np.int64
    assert sorted(batch[:, 0].tolist()) == [number * length for number in range(samples)]
    assert (np.diff(batch, axis=1) == 1).all()  # each is a stretch of the text


@given(seed=seeds, indices=st.lists(st.integers(0, 400), min_size=1, max_size=20))
def test_a_sample_depends_on_its_index_alone(seed: int, indices: list[int]) -> None:
    tokens = _tokens(1000)
    together = Batches(tokens, 8, seed).batch(indices)
    apart = [Batches(tokens, 8, seed).sample(index) for index in indices]
    assert np.array_equal(together, np.stack(apart))


def test_epochs_and_seeds_give_other_orders() -> None:
    batches = Batches(_tokens(8001), 8, seed=1)
    first, second = batches.batch(range(1000)), batches.batch(range(1000, 2000))
    other = Batches(_tokens(8001), 8, seed=2).batch(range(1000))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other)
    following = np.abs(np.diff(first[:, 0])) == 8
    assert following.mean() < 0.02  # neighbours in the text are not neighbours in the order


def test_the_order_is_the_same_on_every_machine() -> None:
    # Resuming elsewhere, or with a later version, must not change the order: these numbers may never change.
    assert Batches(_tokens(801), 8, seed=1337).batch(range(6))[:, 0].tolist() == [752, 784, 224, 528, 456, 328]


def test_no_sample_is_an_error() -> None:
    with pytest.raises(ValueError, match="no sample"):
        Batches(_tokens(8), 8, seed=1)
    assert Batches(_tokens(9), 8, seed=1).samples_per_epoch == 1
    with pytest.raises(ValueError, match="negative"):
        Batches(_tokens(9), 8, seed=1).sample(-1)


def test_validation_covers_all_or_spreads_evenly() -> None:
    tokens = _tokens(1001)
    every = np.concatenate(list(validation_batches(tokens, 10, 8, None)))
    assert every[:, 0].tolist() == list(range(0, 1000, 10))
    some = list(validation_batches(tokens, 10, 4, 20))
    assert [batch.shape for batch in some] == [(4, 11)] * 5
    starts = np.concatenate(some)[:, 0]
    assert set(np.diff(starts).tolist()) == {50}
    assert [len(batch) for batch in validation_batches(tokens, 300, 2, 18)] == [2, 1]
    assert list(validation_batches(_tokens(5), 10, 4, 20)) == []


def test_batches_are_cheap_to_import() -> None:
    code = (
        "import sys, engine.data.batches, engine.data.prepared;"
        "print([m for m in ('torch','datasets','pyarrow','tokenizers','transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
