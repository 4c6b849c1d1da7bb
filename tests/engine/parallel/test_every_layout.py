"""Every layout trains the same model: losses and weights after 20 steps are those of a single process."""

from __future__ import annotations

import pytest

from tests.engine.parallel.conftest import BATCH, SEQUENCE, alone, shape_of, table
from tests.engine.parallel.ranks import losses_of, train_all, validations_of, weights_of
from tests.engine.parallel_layouts import name_of, possible_layouts
from tests.engine.processes import run_ranks

LOSS, WEIGHT = 1e-4, 1e-3


@pytest.mark.timeout(900)
@pytest.mark.parametrize("ranks", [2, 4])
def test_every_layout_trains_the_same_model(make_run, record_property, capsys, ranks: int) -> None:
    single = make_run(alone())
    run_ranks(1, train_all, [single.path], group=False)
    losses, validations, weights = losses_of(single), validations_of(single), weights_of(single)
    layouts = possible_layouts(ranks, shape_of(), SEQUENCE, BATCH)
    runs = {name_of(layout): make_run(layout) for layout in layouts}

    results = run_ranks(ranks, train_all, [run.path for run in runs.values()], timeout=800, group=False)

    rows, wrong = [("layout", "loss", "weights", "seconds")], []
    for (name, run), trained in zip(runs.items(), results[0], strict=True):
        own = losses_of(run)
        assert own.keys() == losses.keys(), name
        by_loss = max(abs(own[step] - losses[step]) for step in losses)
        by_score = max(abs(validations_of(run)[step] - validations[step]) for step in validations)
        by_weight = max(float((value - weights[key]).abs().max()) for key, value in weights_of(run).items())
        rows.append((name, f"{max(by_loss, by_score):.1e}", f"{by_weight:.1e}", f"{trained.seconds:.1f}"))
        if not (max(by_loss, by_score) <= LOSS and by_weight <= WEIGHT):
            wrong.append(name)
    shown = table(rows)
    record_property("layouts", shown)
    with capsys.disabled():
        print(f"\n{len(runs)} layouts of {ranks} ranks against one process, greatest differences\n{shown}")
    assert not wrong
