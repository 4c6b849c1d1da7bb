"""Every layout trains the same model: losses and weights after 20 steps are those of a single process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from engine.contract.layout import Layout
from engine.contract.rundir import RunDirectory
from tests.engine.parallel.conftest import BATCH, SEQUENCE, alone, shape_of, table
from tests.engine.parallel.ranks import losses_of, train_all, validations_of, weights_of
from tests.engine.parallel_layouts import name_of, possible_layouts
from tests.engine.processes import run_ranks

LOSS, WEIGHT = 1e-4, 1e-3
TOGETHER = 10
"""Trainings that one set of processes does: each of them leaves its process groups behind."""
FOURS = 24
"""Layouts of four ranks in a usual run of the tests; ``--every-layout`` takes all."""


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("ranks", [2, 4])
def test_every_layout_trains_the_same_model(make_run, record_property, capsys, request, ranks: int) -> None:
    layouts = possible_layouts(ranks, shape_of(), SEQUENCE, BATCH)
    if ranks == 4 and not request.config.getoption("--every-layout"):
        layouts = list(_spread(layouts, FOURS))
    single = make_run(alone())
    run_ranks(1, train_all, [single.path], group=False)
    runs = {name_of(layout): make_run(layout) for layout in layouts}
    seconds = list(_seconds(ranks, list(runs.values())))
    losses, validations, weights = losses_of(single), validations_of(single), weights_of(single)

    rows, wrong = [("layout", "loss", "weights", "seconds")], []
    for (name, run), spent in zip(runs.items(), seconds, strict=True):
        own = losses_of(run)
        assert own.keys() == losses.keys(), name
        by_loss = max(abs(own[step] - losses[step]) for step in losses)
        by_score = max(abs(validations_of(run)[step] - validations[step]) for step in validations)
        by_weight = max(float((value - weights[key]).abs().max()) for key, value in weights_of(run).items())
        rows.append((name, f"{max(by_loss, by_score):.1e}", f"{by_weight:.1e}", f"{spent:.1f}"))
        if not (max(by_loss, by_score) <= LOSS and by_weight <= WEIGHT):
            wrong.append(name)
    shown = table(rows)
    record_property("layouts", shown)
    with capsys.disabled():
        print(f"\n{len(runs)} layouts of {ranks} ranks against one process, greatest differences\n{shown}")
    assert not wrong


def _spread(layouts: Sequence[Layout], count: int) -> Iterator[Layout]:
    """``count`` of ``layouts``, evenly spread over the list, which goes through the axes and schedules in order."""
    for number in range(count):
        yield layouts[number * len(layouts) // count]


def _seconds(ranks: int, runs: Sequence[RunDirectory]) -> Iterator[float]:
    """Train every run; how long each took on rank 0."""
    for first in range(0, len(runs), TOGETHER):
        paths = [run.path for run in runs[first : first + TOGETHER]]
        results = run_ranks(ranks, train_all, paths, timeout=600, group=False)
        yield from (trained.seconds for trained in results[0])
