"""Networks other than the plain Llama, through the real engine: each trains as one plain process does."""

from __future__ import annotations

import pytest

from engine.contract.events import Sample
from engine.contract.journal import EventReader
from engine.contract.rundir import RunDirectory
from tests.engine.parallel.conftest import alone
from tests.engine.parallel.ranks import losses_of, train_all
from tests.engine.parallel.test_levers import STEPS, TWO, differences, layout, told
from tests.engine.processes import run_ranks

GPT2 = ("model.preset=gpt2-1m", "model.bias=true")
SPLITS = {
    "sharded": layout(2, dp_shard=2, loss_chunks=3),
    "tensor": layout(2, tp=2),
    "tensor, loss in pieces": layout(2, tp=2, loss_chunks=3),
    "context": layout(2, cp=2, loss_chunks=2),
    "pipeline, loss in pieces": layout(2, pp=2, stages=(1, 3), schedule="gpipe", loss_chunks=3),
}
DATA = {
    "copies": layout(2, dp_replicate=2),
    "shards": layout(2, dp_shard=2),
    "shards kept for the backward pass": layout(2, dp_shard=2, reshard=False),
}


def test_learned_positions_biases_and_smoothed_losses_under_every_axis(make_run) -> None:
    found = differences(make_run, SPLITS, *GPT2, "model.tied_embeddings=false", "optim.label_smoothing=0.1")
    assert all(a <= 1e-4 and b <= 1e-3 for a, b in found.values()), told(found)


def test_an_lstm_trains_the_same_over_data_ranks(make_run) -> None:
    found = differences(make_run, DATA, "model.preset=lstm-1m", "model.layers=2")
    assert all(a <= 1e-4 and b <= 1e-3 for a, b in found.values()), told(found)


@pytest.mark.parametrize("name", ["pipeline", "tensor"])
def test_a_resumed_training_draws_the_dropout_of_the_uninterrupted_one(make_run, name: str) -> None:
    drops = ("model.dropout=0.3", "optim.schedule=constant")
    through, stopped = make_run(TWO[name], STEPS, *drops), make_run(TWO[name], "budget.max_steps=4", *drops)
    run_ranks(2, train_all, [through.path, stopped.path], group=False)
    stopped.spec.write_text(through.spec.read_text())
    run_ranks(2, train_all, [stopped.path], group=False)
    assert losses_of(stopped) == pytest.approx(losses_of(through), abs=1e-6)


def test_ranks_write_together_what_one_process_writes(make_run) -> None:
    wanted = (
        "evaluation.sample_tokens=24", "evaluation.temperature=0.8", "evaluation.prompt=ab", "budget.max_steps=1",
    )  # fmt: skip
    single = make_run(alone(), *wanted)
    splits = {**TWO, "context": SPLITS["context"]}
    runs = {name: make_run(split, *wanted) for name, split in splits.items()}
    run_ranks(1, train_all, [single.path], group=False)
    run_ranks(2, train_all, [run.path for run in runs.values()], group=False)
    assert len(samples_of(single)) == 2
    assert {name: samples_of(run) for name, run in runs.items()} == dict.fromkeys(runs, samples_of(single))


def samples_of(run: RunDirectory) -> list[str]:
    return [event.text for event in EventReader(run.events_of("rank0")).read_all() if isinstance(event, Sample)]
