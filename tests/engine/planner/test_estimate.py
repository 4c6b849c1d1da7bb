from __future__ import annotations

import time

import msgspec
import pytest

from engine.contract.errors import SpecError
from engine.contract.machine import Device, Machine
from engine.contract.spec import (
    BudgetSpec,
    DataSpec,
    LayoutSpec,
    ModelSpec,
    OptimSpec,
    RunSpec,
    TokenizerSpec,
)
from engine.planner.estimate import estimate, fit_problems, largest_micro_batch, plan_object

GIB = 2**30


def gpus(*free_gib: float | None, total_gib: int = 24, host_gib: int = 64) -> Machine:
    devices = tuple(
        Device(
            index=at, kind="cuda", memory_total_bytes=total_gib * GIB,
            memory_used_bytes=None if free is None else round((total_gib - free) * GIB),
        )
        for at, free in enumerate(free_gib)
    )  # fmt: skip
    cpu = Device(index=0, kind="cpu", slots=8)
    return Machine(host="h", devices=(*devices, cpu), cpu_cores=8, memory_available_bytes=host_gib * GIB)


def spec(preset: str = "llama-1b", **parts: object) -> RunSpec:
    fields: dict[str, object] = {
        "model": ModelSpec(preset=preset),
        "tokenizer": TokenizerSpec(vocabulary=32000),
        "data": DataSpec(sequence_length=1024),
        "budget": BudgetSpec(max_steps=100),
        **parts,
    }
    return msgspec.convert(fields, RunSpec)


def test_what_fits_has_no_problems() -> None:
    found = estimate(spec("gpt2-124m"), gpus(23.5))
    assert found.fits is True
    assert fit_problems(found) == []
    assert found.parameters == 124_439_808 - (50257 - 32000) * 768
    assert found.available_bytes == round(23.5 * GIB)


def test_the_cheapest_change_is_a_smaller_micro_batch() -> None:
    asked = spec(optim=OptimSpec(batch_size=32), layout=LayoutSpec(micro_batch=8))
    found = estimate(asked, gpus(23.5))
    assert found.fits is False
    (problem,) = fit_problems(found)
    assert problem.field == "layout.micro_batch"
    assert problem.message == f"needs {found.needed_bytes / GIB:.1f} GiB of 23.5 GiB available on device 0"
    micro = largest_micro_batch(found)
    assert micro is not None
    assert f"layout.micro_batch = {micro}" in problem.hint

    # The advice is right, and the next larger choice would not be.
    def fits(size: int) -> bool | None:
        return estimate(msgspec.structs.replace(asked, layout=LayoutSpec(micro_batch=size)), gpus(23.5)).fits

    assert fits(micro) is True
    assert not any(fits(size) for size in (2, 4, 8) if size > micro)


def test_a_model_that_cannot_fit_names_the_largest_that_can() -> None:
    found = estimate(spec("llama-8b"), gpus(23.5))
    (problem,) = fit_problems(found)
    assert problem.field == "model.preset"
    name = problem.hint.split("'")[1]
    advised = spec(name, layout=LayoutSpec(micro_batch=1), optim=OptimSpec(batch_size=32))
    assert estimate(advised, gpus(23.5)).fits is True
    assert name == "llama-1b"
    assert "layout.micro_batch = 1" in problem.hint


def test_nothing_that_fits_still_gets_advice() -> None:
    (problem,) = fit_problems(estimate(spec("llama-1m"), gpus(0.1)))
    assert problem.field == "model.preset"
    assert "sequence_length" in problem.hint


def test_unknown_memory_is_neither_yes_nor_no() -> None:
    found = estimate(spec("llama-405b"), gpus(None))
    assert found.fits is None
    assert found.available_bytes is None
    assert fit_problems(found) == []
    assert plan_object(found)["feasible"] is None


def test_the_fullest_of_the_chosen_devices_decides() -> None:
    machine = gpus(23, 4, 20)
    everywhere = estimate(spec("gpt2-124m", optim=OptimSpec(batch_size=24)), machine)
    assert (everywhere.layout.world_size, everywhere.where, everywhere.available_bytes) == (3, "device 1", 4 * GIB)
    assert everywhere.fits is False
    chosen = estimate(spec("gpt2-124m", layout=LayoutSpec(devices=(0, 2))), machine)
    assert (chosen.where, chosen.fits) == ("device 2", True)


def test_workers_on_the_cpu_share_its_memory() -> None:
    machine = Machine(
        host="h", devices=(Device(index=0, kind="cpu", slots=8),), cpu_cores=8, memory_available_bytes=4 * GIB
    )
    short = DataSpec(sequence_length=128)
    one = estimate(spec("llama-3m", data=short), machine)
    four = estimate(spec("llama-3m", data=short, layout=LayoutSpec(devices=4)), machine)
    assert four.layout.world_size == 4
    assert four.needed_bytes == 4 * four.memory.total_bytes
    assert (one.fits, one.where) == (True, "this machine")
    assert four.fits is (four.needed_bytes <= 4 * GIB)


def test_an_apple_gpu_computes_in_the_memory_of_the_host() -> None:
    devices = (Device(index=0, kind="mps", memory_total_bytes=32 * GIB), Device(index=0, kind="cpu", slots=8))
    machine = Machine(host="h", devices=devices, cpu_cores=8, memory_available_bytes=20 * GIB)
    found = estimate(spec("llama-30m"), machine)
    assert (found.layout.accelerator, found.available_bytes, found.fits) == ("mps", 20 * GIB, True)


@pytest.mark.parametrize(
    ("budget", "steps"),
    [
        (BudgetSpec(max_steps=50), 50),
        (BudgetSpec(max_tokens=32 * 1024 * 10), 10),
        (BudgetSpec(max_tokens=32 * 1024 * 10 + 1), 11),
        (BudgetSpec(max_steps=50, max_tokens=32 * 1024 * 10), 10),
        (BudgetSpec(max_seconds=60), None),
        (BudgetSpec(max_epochs=1), None),
    ],
)
def test_the_length_is_known_where_it_is_counted(budget: BudgetSpec, steps: int | None) -> None:
    found = estimate(spec("llama-1m", budget=budget), gpus(20))
    assert found.steps == steps
    assert found.tokens_per_step == 32 * 1024
    assert found.tokens_total == (None if steps is None else steps * 32 * 1024)


@pytest.mark.parametrize(
    ("tokenizer", "rows", "assumed"),
    [
        (TokenizerSpec(kind="bytes"), 257, False),
        (TokenizerSpec(kind="bpe", vocabulary=5000), 5000, False),
        (TokenizerSpec(kind="characters"), 256, True),
        (TokenizerSpec(kind="file", file="/nowhere/tokenizer.json", vocabulary=4096), 4096, True),
    ],
)
def test_an_unknown_vocabulary_is_a_stated_assumption(tokenizer: TokenizerSpec, rows: int, assumed: bool) -> None:
    found = estimate(spec("llama-1m", tokenizer=tokenizer), gpus(20))
    assert found.shape.vocabulary == rows
    assert bool(found.assumptions) is assumed
    known = estimate(spec("llama-1m", tokenizer=tokenizer), gpus(20), vocabulary=99)
    assert (known.shape.vocabulary, known.assumptions) == (99, ())


def test_a_budget_or_a_rate_that_is_wrong_does_not_hide_the_memory() -> None:
    found = estimate(spec("llama-1m", budget=BudgetSpec(), optim=OptimSpec(lr=-1.0), name=""), gpus(20))
    assert found.fits is True


@pytest.mark.parametrize(
    ("parts", "fields"),
    [
        ({"model": ModelSpec(preset="llama-9z")}, {"model.preset"}),
        ({"layout": LayoutSpec(micro_batch=0)}, {"layout.micro_batch"}),
        ({"layout": LayoutSpec(devices=9)}, {"layout.devices"}),
        ({"optim": OptimSpec(batch_size=0)}, {"optim.batch_size"}),
        ({"data": DataSpec(sequence_length=0)}, {"data.sequence_length"}),
        ({"model": ModelSpec(preset="llama-1m", heads=5), "layout": LayoutSpec(tp=3)}, {"model.heads", "layout.tp"}),
    ],
)
def test_what_leaves_nothing_to_estimate_is_said_all_at_once(parts: dict[str, object], fields: set[str]) -> None:
    with pytest.raises(SpecError) as caught:
        estimate(spec(**parts), gpus(20, 20))  # type: ignore[arg-type]  # parts of a spec by name
    assert fields <= {problem.field for problem in caught.value.problems}


def test_the_plan_object_has_the_published_form() -> None:
    plan = plan_object(estimate(spec("gpt2-124m", layout=LayoutSpec(devices=2)), gpus(23, 23)))
    assert set(plan) == {"optimal", "gap", "evaluated", "feasible", "seconds", "plans"}
    (only,) = plan["plans"]
    assert set(only) == {
        "layout", "fits", "runnable", "memory_bytes", "step_seconds", "tokens_per_second", "interval", "mfu",
        "lost_because",
    }  # fmt: skip
    assert set(only["layout"]) == {
        "strategy", "pp", "dp_replicate", "dp_shard", "cp", "tp", "schedule", "virtual_stages", "stages", "micro_batch",
        "micro_batches", "accumulation", "reshard", "checkpointing", "checkpoint_every", "loss_chunks",
        "offload_optimizer", "precision",
    }  # fmt: skip
    assert only["layout"]["dp_replicate"] == 2
    assert (only["fits"], only["runnable"], only["lost_because"]) == (True, True, None)
    assert len(only["memory_bytes"]) == 2
    assert plan["optimal"] is plan["gap"] is only["step_seconds"] is only["interval"] is only["mfu"] is None
    assert msgspec.json.encode(plan)


def test_a_plan_that_does_not_fit_says_why() -> None:
    plan = plan_object(estimate(spec("llama-8b"), gpus(23.5)))
    assert plan["feasible"] == 0
    assert "GiB available on device 0" in plan["plans"][0]["lost_because"]


def test_an_estimate_with_advice_is_fast_enough_for_every_keystroke() -> None:
    machine = gpus(23.5)
    asked = spec("llama-405b", optim=OptimSpec(batch_size=4096), layout=LayoutSpec(micro_batch=4096))
    fit_problems(estimate(asked, machine))
    before = time.process_time()
    for _ in range(20):
        fit_problems(estimate(asked, machine))
    assert (time.process_time() - before) / 20 < 0.005


def test_numbers_out_of_all_proportion_are_refused_or_left_out() -> None:
    huge = spec("llama-3m", layout=LayoutSpec(micro_batch=10**400))
    with pytest.raises(SpecError, match=r"layout\.micro_batch"):
        estimate(huge, gpus(24))
    endless = spec("llama-3m", budget=BudgetSpec(max_steps=10**400))
    assert estimate(endless, gpus(24)).steps is None
    large = spec("llama-3m", layout=LayoutSpec(micro_batch=2**20), optim=OptimSpec(batch_size=2**20))
    assert fit_problems(estimate(large, gpus(24)))[0].field == "layout.micro_batch"


def test_every_rank_has_a_memory_of_its_own() -> None:
    layout = LayoutSpec(pp=2, tp=2, stages=(12, 4))
    found = estimate(spec("llama-1b", layout=layout), gpus(79, 79, 79, 79, total_gib=80))
    first, second = found.memory_bytes[:2], found.memory_bytes[2:]
    assert first[0] == first[1] > second[0] == second[1]
    assert found.memory.total_bytes == first[0] == found.needed_bytes
    assert plan_object(found)["plans"][0]["memory_bytes"] == list(found.memory_bytes)
    roomier = estimate(spec("llama-1b", layout=layout), gpus(79, 79, 9, 79, total_gib=80))
    assert (roomier.where, roomier.needed_bytes) == ("device 2", second[0])


def test_what_a_layout_can_save_is_advised_before_a_smaller_model() -> None:
    four = gpus(20, 20, 20, 20)
    (problem,) = fit_problems(estimate(spec("llama-3b", layout=LayoutSpec(micro_batch=1)), four))
    assert problem.field == "layout.strategy"
    assert 'layout.strategy = "fsdp"' in problem.hint
    fixed = LayoutSpec(micro_batch=1, strategy="fsdp", checkpointing="full" if "full" in problem.hint else "none")
    assert estimate(spec("llama-3b", layout=fixed), four).fits is True
    long = spec("llama-1b", data=DataSpec(sequence_length=8192), layout=LayoutSpec(micro_batch=1, loss_chunks=16))
    (problem,) = fit_problems(estimate(long, gpus(32, total_gib=32)))
    assert problem.hint == 'set layout.checkpointing = "full"'


def test_state_on_the_host_has_to_fit_there() -> None:
    asked = spec("llama-1b", layout=LayoutSpec(micro_batch=1, checkpointing="full", offload_optimizer=True))
    found = estimate(asked, gpus(20))
    assert found.memory.optimiser_bytes == 0
    assert found.memory.host_bytes > 8 * found.parameters
    assert found.fits is True
    scarce = estimate(asked, gpus(20, host_gib=8))
    assert scarce.fits is False
    assert scarce.where.startswith("the host")


def test_what_does_not_divide_is_said_with_the_expected_vocabulary() -> None:
    for kind, told in (("bpe", True), ("characters", False)):
        tokenizer = TokenizerSpec(kind=kind, vocabulary=4097 if told else 4096)  # type: ignore[arg-type]  # a kind
        asked = spec("llama-1b", tokenizer=tokenizer, layout=LayoutSpec(tp=2))
        if told:
            with pytest.raises(SpecError, match="vocabulary of 4,097 cannot be split"):
                estimate(asked, gpus(20, 20))
        else:
            assert estimate(asked, gpus(20, 20)).shape.vocabulary == 256
