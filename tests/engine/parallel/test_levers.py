"""Optimisers, shared layers and memory levers through the real engine: each trains as one plain process does."""

from __future__ import annotations

import msgspec
import pytest

from engine.contract.layout import Layout
from tests.engine.parallel.conftest import BATCH, alone, table, use_layout
from tests.engine.parallel.ranks import losses_of, train_all, weights_of
from tests.engine.processes import run_ranks

STEPS = "budget.max_steps=8"
ACCUMULATION = 2


def layout(ranks: int, **axes: object) -> Layout:
    data_ranks = int(axes.get("dp_replicate", 1)) * int(axes.get("dp_shard", 1))  # type: ignore[call-overload]
    base = Layout(
        strategy="hybrid", accelerator="cpu", device_indices=tuple(range(ranks)), precision="fp32",
        micro_batch=BATCH // ACCUMULATION // data_ranks, accumulation=ACCUMULATION, threads_per_worker=1,
    )  # fmt: skip
    return msgspec.structs.replace(base, **axes)


TWO = {
    "fsdp": layout(2, dp_shard=2),
    "tensor": layout(2, tp=2),
    "pipeline": layout(2, pp=2, stages=(2, 2), schedule="1f1b"),
}
LEVERS = {
    "selective": layout(2, dp_shard=2, checkpointing="selective"),
    "full, every other layer": layout(2, tp=2, checkpointing="full", checkpoint_every=2),
    "full in a pipeline": layout(2, pp=2, stages=(2, 2), schedule="1f1b", checkpointing="full"),
    "offloaded": layout(2, dp_shard=2, offload_optimizer=True),
    "loss in pieces": layout(2, dp_replicate=2, loss_chunks=3),
}


def differences(make_run, layouts: dict[str, Layout], *overrides: str) -> dict[str, tuple[float, float]]:
    """The greatest difference of losses and of final weights from those of one process, by layout."""
    single = make_run(alone(), STEPS, *overrides)
    run_ranks(1, train_all, [single.path], group=False)
    losses, weights = losses_of(single), weights_of(single)
    assert len(losses) == 8
    runs = {name: make_run(chosen, STEPS, *overrides) for name, chosen in layouts.items()}
    for told in run_ranks(2, train_all, [run.path for run in runs.values()], group=False):
        assert not [word for word in told if isinstance(word, str)]
    return {
        name: (
            max(abs(losses_of(run)[step] - loss) for step, loss in losses.items()),
            max(float((value - weights[key]).abs().max()) for key, value in weights_of(run).items()),
        )
        for name, run in runs.items()
    }


def told(found: dict[str, tuple[float, float]]) -> str:
    return table([("layout", "loss", "weights"), *((name, f"{a:.1e}", f"{b:.1e}") for name, (a, b) in found.items())])


@pytest.mark.parametrize(
    ("name", "rate", "loss", "weight"),
    [("adafactor", 0.01, 1e-4, 1e-3), ("muon", 0.003, 2e-3, 1e-2)],
)
def test_every_optimiser_trains_the_same_model(make_run, name: str, rate: float, loss: float, weight: float) -> None:
    """Muon's iterations round to bfloat16: what is added in another order may be rounded to the other side."""
    found = differences(make_run, TWO, f"optim.name={name}", f"optim.lr={rate}")
    assert all(a <= loss and b <= weight for a, b in found.values()), told(found)


def test_shared_layers_train_the_same_model(make_run) -> None:
    found = differences(make_run, {name: TWO[name] for name in ("fsdp", "pipeline")}, "model.layer_groups=2")
    assert all(a <= 1e-4 and b <= 1e-3 for a, b in found.values()), told(found)


def test_memory_levers_change_nothing_but_memory(make_run) -> None:
    found = differences(make_run, LEVERS)
    assert all(a <= 1e-4 and b <= 1e-3 for a, b in found.values()), told(found)


def test_state_goes_over_from_shards_to_a_pipeline(make_run) -> None:
    """Stopped under one layout and gone on with under another, the training is that without the stop."""
    optim = ("optim.name=muon", "optim.lr=0.003", "checkpoint.every_steps=4", "optim.schedule=constant")
    single = make_run(alone(), STEPS, *optim)
    run_ranks(1, train_all, [single.path], group=False)
    run = make_run(TWO["fsdp"], "budget.max_steps=4", *optim)
    run_ranks(2, train_all, [run.path], group=False)
    run.spec.write_text(single.spec.read_text())
    use_layout(run, TWO["pipeline"])
    run_ranks(2, train_all, [run.path], group=False)
    expected, found = losses_of(single), losses_of(run)
    assert found.keys() == expected.keys()
    assert max(abs(found[step] - loss) for step, loss in expected.items()) <= 2e-3


def test_every_precision_trains_under_a_split(make_run) -> None:
    single = make_run(alone(), STEPS)
    run_ranks(1, train_all, [single.path], group=False)
    runs = {
        precision: make_run(msgspec.structs.replace(TWO[split], precision=precision), STEPS)
        for precision, split in (("bf16-mixed", "fsdp"), ("bf16-true", "pipeline"), ("fp16-mixed", "tensor"))
    }
    for words in run_ranks(2, train_all, [run.path for run in runs.values()], group=False):
        assert not [word for word in words if isinstance(word, str)]
    exact = losses_of(single)
    for precision, run in runs.items():
        losses = losses_of(run)
        assert losses.keys() == exact.keys()
        assert losses[8] < losses[1] - 0.05, precision
        assert max(abs(losses[step] - exact[step]) for step in exact) < 0.1, precision
