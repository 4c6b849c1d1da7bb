"""What is estimated for each rank of a layout is what torch hands out on real ranks."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from engine.contract.layout import Layout
from engine.contract.presets import resolve_shape
from engine.contract.spec import ModelSpec, OptimSpec
from engine.planner.activations import in_flight
from engine.planner.memory import MemoryEstimate, estimate_memory, memory_of_ranks
from engine.planner.shapes import parameter_count
from engine.planner.share import share_of
from tests.engine.parallel_layouts import name_of, possible_layouts
from tests.engine.planner.measuring import peaks_of_a_step
from tests.engine.processes import run_ranks

LENGTH, BATCH = 128, 16
MODEL = ModelSpec(preset="llama-1m", layers=4, hidden=128, heads=4, kv_heads=4, feed_forward=384)
SHAPE = resolve_shape(MODEL, vocabulary=512, sequence_length=LENGTH)


def tensors(memory: MemoryEstimate) -> int:
    return memory.total_bytes - memory.overhead_bytes


def even(world_size: int) -> list[Layout]:
    return [layout for layout in possible_layouts(world_size, SHAPE, LENGTH, BATCH) if layout.micro_batches is None]


def test_every_kind_of_split_takes_what_is_estimated() -> None:
    uneven = [layout for layout in even(2) if layout.stages is None or layout.stages[0] == 3]
    layouts = [layout for layout in uneven if layout.schedule != "gpipe"]
    layouts += [layout for layout in even(2) if layout.schedule in {"interleaved-1f1b", "zero-bubble-v"}]
    layouts += [msgspec.structs.replace(layout, precision="bf16-mixed") for layout in layouts if layout.dp_shard > 1]
    measured = run_ranks(2, peaks_of_a_step, SHAPE, layouts, OptimSpec(), LENGTH, timeout=280)
    missed = []
    for number, layout in enumerate(layouts):
        for rank, memory in enumerate(memory_of_ranks(SHAPE, layout, OptimSpec(), LENGTH)):
            found = measured[rank][number]
            if tensors(memory) != pytest.approx(found, rel=0.12):
                missed.append(f"{name_of(layout)} {layout.precision}, rank {rank}: {tensors(memory)} for {found}")
    assert missed == []


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_the_shares_of_a_model_are_the_whole(world_size: int) -> None:
    untied = msgspec.structs.replace(SHAPE, tied_embeddings=False)
    for layout in even(world_size):
        shares = [share_of(untied, layout, pp) for pp in range(layout.pp)]
        whole = sum(share.weight_sets * share.layer * layout.tp for share in shares)
        whole += sum(share.weight_sets * share.layer_norms + share.final * share.last for share in shares)
        whole += sum(share.tables * share.table * layout.tp for share in shares)
        assert round(whole) == parameter_count(untied)
        assert sum(sum(share.stages) for share in shares) == SHAPE.layers


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "interleaved-1f1b", "zero-bubble", "zero-bubble-v"])
def test_what_waits_is_what_the_schedules_of_torch_keep(schedule: str) -> None:
    """A forward begins and a full backward, or that of the weights, ends the life of a micro-batch in a stage."""
    from torch.distributed.pipelining import schedules

    ranks, count = 4, 8
    virtual = {"interleaved-1f1b": 2, "zero-bubble-v": 2}.get(schedule, 1)
    layout = msgspec.structs.replace(
        even(1)[0], pp=ranks, schedule=schedule, virtual_stages=virtual, accumulation=count,
        stages=(1,) * ranks * virtual,
    )  # fmt: skip
    if schedule in {"gpipe", "1f1b"}:  # torch runs these without a list of actions
        expected = [(count,)] * ranks if schedule == "gpipe" else [(4,), (3,), (2,), (1,)]
        assert [in_flight(layout, pp) for pp in range(ranks)] == expected
        return
    kinds: dict[str, Any] = {
        "interleaved-1f1b": schedules.ScheduleInterleaved1F1B, "zero-bubble": schedules.ScheduleInterleavedZeroBubble,
        "zero-bubble-v": schedules.ScheduleZBVZeroBubble,
    }  # fmt: skip
    plan = object.__new__(kinds[schedule])
    plan.pp_group_size, plan.n_local_stages, plan._n_microbatches = ranks, virtual, count
    plan.number_of_rounds, plan.microbatches_per_round, plan.num_stages = count // ranks, ranks, ranks * virtual
    for pp in range(ranks):
        alive = most = 0
        for action in plan._calculate_single_rank_operations(pp):
            if action is None:
                continue
            kind = action.computation_type
            alive += (kind == schedules.FORWARD) - (kind in {schedules.FULL_BACKWARD, schedules.BACKWARD_WEIGHT})
            most = max(most, alive)
        assert sum(in_flight(layout, pp)) == most


def test_what_saves_memory_saves_memory() -> None:
    shape = resolve_shape(ModelSpec(preset="llama-1b"), vocabulary=32000, sequence_length=2048)
    plain = msgspec.structs.replace(even(1)[0], accelerator="cuda", micro_batch=4, accumulation=2)

    def needed(optim: str = "adamw", **changes: object) -> int:
        layout = msgspec.structs.replace(plain, **changes)
        return estimate_memory(shape, layout, OptimSpec(name=optim), 2048).total_bytes  # type: ignore[arg-type]

    everything = needed()
    assert needed(checkpointing="full") < needed(checkpointing="selective") < everything
    assert needed(checkpointing="full") < needed(checkpointing="full", checkpoint_every=2) < everything
    assert needed(loss_chunks=8) < everything
    assert needed(offload_optimizer=True) < everything
    assert needed("adafactor") < needed("muon") < everything
    assert needed(precision="bf16-true") < needed(precision="bf16-mixed") < everything
    for axis in ("dp_shard", "tp", "cp"):
        sizes = [needed(**{axis: size}) for size in (2, 4, 8)]
        assert sizes == sorted(sizes, reverse=True)
    assert needed(dp_shard=4) < needed(dp_shard=4, reshard=False) < needed(dp_replicate=4)
