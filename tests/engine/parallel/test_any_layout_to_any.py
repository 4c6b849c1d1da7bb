"""A run is stopped under one layout and goes on under another, as if nothing had happened."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence

import pytest

from engine.contract.layout import Layout
from engine.contract.rundir import RunDirectory
from tests.engine.parallel.conftest import BATCH, SEQUENCE, alone, shape_of, table
from tests.engine.parallel.ranks import Trained, losses_of, train_all, weights_of
from tests.engine.parallel_layouts import name_of, possible_layouts
from tests.engine.processes import run_ranks

PAIRS, SOURCES, HALF = 30, 8, 10
LOSS, WEIGHT = 1e-4, 1e-3


@pytest.mark.timeout(900)
def test_thirty_changes_of_layout(make_run, record_property, capsys) -> None:
    chance = random.Random(2026)
    choices = [alone(), alone(4)]
    for ranks, some in ((2, 15), (4, 9)):
        choices += chance.sample(possible_layouts(ranks, shape_of(), SEQUENCE, BATCH), some)
    whole = make_run(alone())
    first = chance.sample(choices, SOURCES)
    sources = [make_run(layout) for layout in first]
    targets = chance.choices(choices, k=PAIRS)
    runs = [make_run(layout) for layout in targets]

    samples = dict(zip([whole, *sources], _train([alone(), *first], [whole, *sources]), strict=True))
    for number, run in enumerate(runs):
        run.checkpoints.mkdir()
        source = sources[number % SOURCES]
        shutil.copytree(source.checkpoints / f"step-{HALF}", run.checkpoints / f"step-{HALF}")
    continued = _train(targets, runs)

    losses, weights = losses_of(whole), weights_of(whole)
    rows, wrong = [("first", "then", "loss", "weights")], []
    for number, (run, layout) in enumerate(zip(runs, targets, strict=True)):
        own = losses_of(run)
        assert sorted(own) == list(range(HALF + 1, 2 * HALF + 1)), name_of(layout)
        by_loss = max(abs(own[step] - losses[step]) for step in own)
        by_weight = max(float((value - weights[key]).abs().max()) for key, value in weights_of(run).items())
        before, after = name_of(first[number % SOURCES]), name_of(layout)
        rows.append((before, after, f"{by_loss:.1e}", f"{by_weight:.1e}"))
        if not (by_loss <= LOSS and by_weight <= WEIGHT):
            wrong.append((before, after))
        steps = samples[sources[number % SOURCES]][:HALF] + continued[number]
        read = [index for step in steps for index in step]
        assert sorted(read) == list(range(2 * HALF * BATCH)), f"{before} -> {after}: samples repeated or skipped"
    shown = table(rows)
    record_property("changes", shown)
    with capsys.disabled():
        print(f"\n{PAIRS} changes of layout after {HALF} steps against no change, greatest differences\n{shown}")
    assert not wrong


def _train(layouts: Sequence[Layout], runs: Sequence[RunDirectory]) -> list[list[list[int]]]:
    """Train each run under its layout; the samples that all its ranks together read, by step."""
    found: dict[int, list[list[int]]] = {}
    for ranks in sorted({layout.world_size for layout in layouts}):
        chosen = [number for number, layout in enumerate(layouts) if layout.world_size == ranks]
        results = run_ranks(ranks, train_all, [runs[number].path for number in chosen], timeout=800, group=False)
        for at, number in enumerate(chosen):
            found[number] = _together([result[at] for result in results])
    return [found[number] for number in range(len(layouts))]


def _together(ranks: Sequence[Trained]) -> list[list[int]]:
    """What the data ranks read in each step; those that share one must have read the same."""
    by_data_rank: dict[int, list[list[int]]] = {}
    for rank in ranks:
        assert by_data_rank.setdefault(rank.data_rank, rank.samples) == rank.samples
    return [sorted(index for part in step for index in part) for step in zip(*by_data_rank.values(), strict=True)]
