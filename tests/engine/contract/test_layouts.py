"""Sizes, devices, schedules and shapes: which layout follows, and what is said where none does."""

from __future__ import annotations

import random
from math import prod
from typing import get_args

import pytest

from engine.contract.check import check
from engine.contract.layout import Layout, resolve_layout
from engine.contract.machine import Device, Machine
from engine.contract.pipelines import even_stages, takes_micro_batches, torn_weights, usual_virtual_stages
from engine.contract.placing import AXES
from engine.contract.presets import resolve_shape
from engine.contract.shape import ModelShape
from engine.contract.spec import BudgetSpec, ModelSpec, RunSpec, Schedule
from engine.contract.specfile import FIELDS, dump_spec, override_spec, parse_spec
from engine.contract.splitting import split_problems
from tests.engine.parallel_layouts import name_of, possible_layouts

GOOD = RunSpec(name="good", budget=BudgetSpec(max_steps=10))
TWO_CORES = Machine(host="h", devices=(Device(index=0, kind="cpu", slots=2),), cpu_cores=2)
EIGHT_GPUS = Machine(
    host="h",
    devices=(*(Device(index=at, kind="cuda") for at in range(8)), Device(index=0, kind="cpu", slots=16)),
    cpu_cores=16,
)
MAC = Machine(host="h", devices=(Device(index=0, kind="mps"), Device(index=0, kind="cpu", slots=8)), cpu_cores=8)
DEEP = ("model.preset=llama-100m", "data.sequence_length=512")


def layout_of(machine: Machine, *overrides: str) -> Layout:
    spec = override_spec(GOOD, overrides)
    assert check(spec, machine) == []
    layout = resolve_layout(spec, machine)
    assert isinstance(layout, Layout)
    assert layout.world_size == len(layout.device_indices) * len(layout.hosts or ("",))
    return layout


def sizes(layout: Layout) -> tuple[int, ...]:
    return tuple(getattr(layout, axis) for axis in AXES)


@pytest.mark.parametrize(
    ("overrides", "strategy", "expected"),
    [
        ([], "ddp", (1, 8, 1, 1, 1)),
        (["layout.strategy=ddp"], "ddp", (1, 8, 1, 1, 1)),
        (["layout.strategy=fsdp"], "fsdp", (1, 1, 8, 1, 1)),
        (["layout.strategy=zero2"], "zero2", (1, 1, 8, 1, 1)),
        (["layout.strategy=hsdp"], "hsdp", (1, 2, 4, 1, 1)),
        (["layout.strategy=hsdp", "layout.dp_replicate=4"], "hsdp", (1, 4, 2, 1, 1)),
        (["layout.strategy=hsdp", "layout.dp_shard=2"], "hsdp", (1, 4, 2, 1, 1)),
        (["layout.strategy=tensor", "layout.devices=4"], "tensor", (1, 1, 1, 1, 4)),
        (["layout.strategy=pipeline"], "pipeline", (8, 1, 1, 1, 1)),
        (["layout.strategy=fsdp", "layout.tp=2"], "fsdp", (1, 1, 4, 1, 2)),
        (["layout.strategy=ddp", "layout.pp=2", "layout.cp=2"], "ddp", (2, 2, 1, 2, 1)),
        (["layout.tp=2"], "hybrid", (1, 4, 1, 1, 2)),
        (["layout.dp_shard=8"], "fsdp", (1, 1, 8, 1, 1)),
        (["layout.strategy=hybrid", "layout.dp_replicate=1", "layout.pp=2", "layout.cp=1", "layout.tp=2"], "hybrid",
         (2, 1, 2, 1, 2)),
        (["layout.strategy=hybrid", "layout.tp=2", "layout.pp=2"], "hybrid", (2, 2, 1, 1, 2)),
        (["layout.stages=[4,4,4,4]"], "hybrid", (4, 2, 1, 1, 1)),
    ],
)  # fmt: skip
def test_the_named_axis_takes_what_is_left_over(overrides: list[str], strategy: str, expected: tuple[int, ...]) -> None:
    layout = layout_of(EIGHT_GPUS, *DEEP, *overrides)
    assert (layout.strategy, sizes(layout)) == (strategy, expected)
    assert layout.reshard is (layout.strategy != "zero2")


@pytest.mark.parametrize("schedule", get_args(Schedule))
def test_a_split_backward_pass_keeps_the_gathered_parameters(schedule: str) -> None:
    wanted = [*DEEP, "layout.pp=2", "layout.dp_replicate=1", f"layout.schedule={schedule}"]
    assert layout_of(EIGHT_GPUS, *wanted, "layout.dp_shard=4").reshard is not schedule.startswith("zero-bubble")
    assert layout_of(EIGHT_GPUS, *wanted, "layout.tp=4").reshard, "there is nothing to give up"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], (1, 1, 1, 1, 1)),
        (["layout.strategy=ddp"], (1, 2, 1, 1, 1)),
        (["layout.strategy=fsdp"], (1, 1, 2, 1, 1)),
        (["layout.strategy=fsdp", "layout.tp=2"], (1, 1, 2, 1, 2)),
        (["layout.pp=2", "layout.tp=2"], (2, 1, 1, 1, 2)),
        (["layout.dp_shard=4"], (1, 1, 4, 1, 1)),
        (["layout.strategy=hsdp", "layout.devices=4"], (1, 2, 2, 1, 1)),
        (["layout.devices=8"], (1, 8, 1, 1, 1)),
    ],
)
def test_a_cpu_takes_as_many_workers_as_the_sizes_need(overrides: list[str], expected: tuple[int, ...]) -> None:
    layout = layout_of(TWO_CORES, *overrides)
    assert sizes(layout) == expected
    assert layout.threads_per_worker == max(1, 2 // layout.world_size)


def test_hosts_multiply_the_devices_and_hold_the_shards_of_hsdp() -> None:
    layout = layout_of(EIGHT_GPUS, *DEEP, "layout.hosts=a,b", "layout.strategy=hsdp")
    assert (layout.hosts, layout.world_size, sizes(layout)) == (("a", "b"), 16, (1, 2, 8, 1, 1))
    layout = layout_of(EIGHT_GPUS, *DEEP, "layout.hosts=[a, b, c]", "layout.strategy=hsdp", "layout.tp=2")
    assert sizes(layout) == (1, 3, 4, 1, 2)
    layout = layout_of(TWO_CORES, "layout.hosts=a,b", "layout.pp=2")
    assert (layout.device_indices, sizes(layout)) == ((0,), (2, 1, 1, 1, 1))


@pytest.mark.parametrize(
    ("machine", "overrides", "field", "text"),
    [
        (EIGHT_GPUS, ["layout.tp=3"], "layout.tp", "tp = 3 does not divide 8 devices (choose tp from 1, 2, 4, 8)"),
        (EIGHT_GPUS, ["layout.tp=16"], "layout.tp", "needs 16 devices, and 8 are chosen"),
        (EIGHT_GPUS, ["layout.strategy=fsdp", "layout.dp_shard=4"], "layout.dp_shard", "or add dp_replicate = 2"),
        (EIGHT_GPUS, ["layout.pp=2", "layout.devices=5"], "layout.pp", "does not divide 5 devices"),
        (EIGHT_GPUS, ["layout.strategy=single", "layout.tp=2"], "layout.tp", "'single' is one rank"),
        (EIGHT_GPUS, ["layout.strategy=single", "layout.hosts=a,b"], "layout.strategy", "cannot use 2 hosts"),
        (TWO_CORES, ["layout.strategy=hsdp"], "layout.strategy", "at least 4 devices or CPU workers, and there are 2"),
        (TWO_CORES, ["layout.dp_shard=9"], "layout.dp_shard", "this machine has 8 CPU worker slots"),
        (TWO_CORES, ["layout.strategy=tensor", "layout.tp=1"], "layout.strategy", "tp = 1 is asked for"),
        (TWO_CORES, ["layout.tp=3", "model.heads=8", "model.kv_heads=8", "model.feed_forward=513",
                     "data.sequence_length=255"],
         "layout.tp",
         "8 attention heads cannot be split over tp = 3 (choose tp from 1, 2, 4, 8)"),
        (TWO_CORES, ["layout.tp=4", "model.kv_heads=2"], "layout.tp",
         "2 key/value heads cannot be split over tp = 4 (choose tp from 1, 2)"),
        (TWO_CORES, ["layout.tp=2", "model.feed_forward=511"], "model.feed_forward", "set model.feed_forward = 512"),
        (TWO_CORES, ["layout.tp=2", "tokenizer.kind=bytes"], "model.vocabulary", "set model.vocabulary = 258"),
        (TWO_CORES, ["layout.tp=2", "model.vocabulary=4097"], "model.vocabulary", "set model.vocabulary = 4098"),
        (TWO_CORES, ["layout.tp=2", "data.sequence_length=255"], "data.sequence_length", "use 254 or 256"),
        (TWO_CORES, ["layout.cp=2", "data.sequence_length=258"], "data.sequence_length", "use 256 or 260"),
        (TWO_CORES, ["layout.cp=3", "layout.tp=2", "data.sequence_length=64"], "data.sequence_length", "use 60 or 66"),
        (TWO_CORES, ["layout.pp=7"], "layout.pp", "6 layers do not fill 7 stages"),
        (TWO_CORES, ["layout.pp=2", "layout.virtual_stages=4", "layout.schedule=interleaved-1f1b"],
         "layout.virtual_stages", "6 layers do not fill 8 stages (pp = 2 with 4 virtual stages each)"),
        (TWO_CORES, ["layout.pp=2", "layout.stages=[4,3]"], "layout.stages", "4 + 3 is 7 layers, and the model has 6"),
        (TWO_CORES, ["layout.pp=2", "layout.stages=[2,2,2]"], "layout.stages", "3 stages are listed, and pp = 2"),
        (TWO_CORES, ["layout.stages=[6,0]"], "layout.stages", "at least 1 each, not 0"),
        (TWO_CORES, ["layout.schedule=gpipe"], "layout.schedule", "there is no pipeline"),
        (TWO_CORES, ["layout.pp=2", "layout.virtual_stages=2"], "layout.virtual_stages", "1f1b gives each rank 1"),
        (TWO_CORES, ["layout.pp=2", "layout.schedule=zero-bubble-v", "layout.virtual_stages=1"],
         "layout.virtual_stages", "gives each rank 2 stages"),
        (TWO_CORES, ["layout.pp=4", "layout.accumulation=3"], "layout.accumulation", "at least 4 micro-batches"),
        (TWO_CORES, ["layout.pp=4", "optim.batch_size=2"], "optim.batch_size", "set optim.batch_size = 4"),
        (TWO_CORES, ["layout.pp=4", "optim.batch_size=8", "layout.micro_batch=4"], "layout.micro_batch", "(use 2)"),
        (TWO_CORES, ["layout.pp=2", "layout.schedule=interleaved-1f1b", "layout.accumulation=5"],
         "layout.accumulation", "(use 4 or 6)"),
        (TWO_CORES, ["layout.dp_shard=2", "layout.micro_batches=3,2,1"], "layout.micro_batches", "for 2 data ranks"),
        (TWO_CORES, ["layout.dp_shard=2", "layout.micro_batches=3,1", "optim.batch_size=30"], "layout.micro_batches",
         "4 sequences in micro-batches of all ranks do not make the batch size 30"),
        (TWO_CORES, ["layout.dp_shard=2", "layout.micro_batches=3,1", "layout.micro_batch=2"], "layout.micro_batches",
         "one size for all ranks and a list"),
        (TWO_CORES, ["layout.checkpoint_every=2"], "layout.checkpoint_every", "checkpointing is none"),
        (TWO_CORES, ["layout.checkpoint_every=7", "layout.checkpointing=full"], "layout.checkpoint_every", "1 to 6"),
        (TWO_CORES, ["layout.loss_chunks=9000"], "layout.loss_chunks", "use at most 2048"),
        (TWO_CORES, ["layout.offload_optimizer=true", "optim.name=muon"], "layout.offload_optimizer", "state of muon"),
        (TWO_CORES, ["layout.precision=fp8"], "layout.precision", "fp8 needs a CUDA device"),
        (TWO_CORES, ["layout.precision=fp16-mixed"], "layout.precision", "this layout is for cpu"),
        (EIGHT_GPUS, [*DEEP, "layout.pp=2", "layout.precision=fp16-mixed"], "layout.precision", "stages of a pipeline"),
        (TWO_CORES, ["layout.pp=2", "layout.schedule=zero-bubble", "layout.compile=true"], "layout.compile", "apart"),
        (TWO_CORES, ["model.preset=lstm-1m", "layout.tp=2"], "layout.tp", "an LSTM cannot be split"),
        (TWO_CORES, ["model.preset=lstm-1m", "layout.checkpointing=full"], "layout.checkpointing", "an LSTM has no"),
        (MAC, ["layout.hosts=a,b"], "layout.devices", "an Apple GPU is one device"),
        (TWO_CORES, ["layout.hosts=a,-b"], "layout.hosts", "-b"),
        (TWO_CORES, ["layout.hosts=a,a"], "layout.hosts", "a is named"),
        (TWO_CORES, ["layout.hosts=[]"], "layout.hosts", "an empty list"),
    ],
)  # fmt: skip
def test_what_cannot_be_names_its_field_and_a_remedy(
    machine: Machine, overrides: list[str], field: str, text: str
) -> None:
    found = check(override_spec(GOOD, overrides), machine)
    assert [problem.field for problem in found] == [field]
    assert text in str(found[0])
    assert found[0].hint


def test_all_that_does_not_divide_is_said_at_once() -> None:
    wrong = ["layout.tp=3", "layout.cp=2", "tokenizer.kind=bytes", "layout.loss_chunks=10000", "layout.devices=6"]
    assert {problem.field for problem in check(override_spec(GOOD, wrong), TWO_CORES)} == {
        "layout.tp", "model.feed_forward", "model.vocabulary", "data.sequence_length", "layout.loss_chunks",
    }  # fmt: skip


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "interleaved-1f1b", "zero-bubble", "zero-bubble-v"])
@pytest.mark.parametrize("pp", [2, 3, 4])
def test_the_schedules_take_what_those_of_torch_take(schedule: str, pp: int) -> None:
    import torch
    from torch import distributed, nn
    from torch.distributed.pipelining import PipelineStage, schedules
    from torch.testing._internal.distributed.fake_pg import FakeStore

    kinds = {
        "gpipe": schedules.ScheduleGPipe, "1f1b": schedules.Schedule1F1B,
        "zero-bubble-v": schedules.ScheduleZBVZeroBubble, "interleaved-1f1b": schedules.ScheduleInterleaved1F1B,
        "zero-bubble": schedules.ScheduleInterleavedZeroBubble,
    }  # fmt: skip
    virtual = usual_virtual_stages(schedule)  # type: ignore[arg-type]  # a test's parameter
    last = pp * virtual - 1
    mine = [0, last] if schedule == "zero-bubble-v" else [number * pp for number in range(virtual)]

    def built(count: int) -> bool:
        stages = [PipelineStage(nn.Linear(1, 1), at, last + 1, torch.device("cpu")) for at in mine]
        single = schedule in {"gpipe", "1f1b"}
        try:
            kinds[schedule](stages[0] if single else stages, n_microbatches=count, loss_fn=lambda x, _: x)
        except ValueError:
            return False
        return True

    distributed.init_process_group("fake", rank=0, world_size=pp, store=FakeStore())
    try:
        theirs = [built(count) for count in range(1, 14)]
    finally:
        distributed.destroy_process_group()
    assert theirs == [takes_micro_batches(schedule, pp, count) for count in range(1, 14)]  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "interleaved-1f1b", "zero-bubble", "zero-bubble-v"])
@pytest.mark.parametrize("pp", [2, 3, 8])
@pytest.mark.parametrize("batch", ["none", "48", "96"])
def test_a_pipeline_is_kept_busy_where_the_batch_allows_it(schedule: str, pp: int, batch: str) -> None:
    wanted = [f"layout.pp={pp}", f"layout.devices={pp}", f"layout.schedule={schedule}", f"optim.batch_size={batch}"]
    layout = layout_of(EIGHT_GPUS, *DEEP, *wanted)
    assert layout.accumulation >= 2 * pp
    assert takes_micro_batches(layout.schedule, pp, layout.accumulation)
    assert layout.stages is not None
    assert (len(layout.stages), sum(layout.stages)) == (pp * layout.virtual_stages, 16)


@pytest.mark.parametrize("layers", range(1, 25))
def test_stages_are_even_and_the_last_is_not_the_largest(layers: int) -> None:
    for count in range(1, layers + 1):
        stages = even_stages(layers, count)
        assert sum(stages) == layers
        assert max(stages) - min(stages) <= 1
        assert list(stages) == sorted(stages, reverse=True)


@pytest.mark.parametrize(("layers", "groups"), [(12, 1), (12, 4), (12, 5), (7, 3), (9, 9), (24, 6)])
def test_stages_keep_shared_layers_together_where_they_can(layers: int, groups: int) -> None:
    shape = resolve_shape(ModelSpec(preset="llama-1m", layers=layers), vocabulary=64, sequence_length=16)
    shared = ModelShape(**{name: getattr(shape, name) for name in shape.__struct_fields__} | {"layer_groups": groups})
    for count in range(1, layers + 1):
        stages = even_stages(layers, count, groups)
        assert sum(stages) == layers
        assert min(stages) >= 1
        assert (torn_weights(shared, stages) == []) is (count <= groups)
    layout = next(layout for layout in possible_layouts(2, shape, 16, 8) if layout.pp == 2)
    torn = [problem.field for problem in split_problems(shared, layout, 16)]
    assert torn == ([] if torn_weights(shared, layout.stages or ()) == [] else ["model.layer_groups"])


def test_every_possible_layout_is_whole_and_different() -> None:
    model = ModelSpec(preset="llama-1m", layers=4, hidden=32, heads=4, kv_heads=4, feed_forward=64)
    shape = resolve_shape(model, vocabulary=64, sequence_length=16)
    for ranks in (1, 2, 4, 6):
        found = possible_layouts(ranks, shape, 16, 12)
        assert all(layout.world_size == ranks and layout.batch_size == 12 for layout in found)
        assert len({name_of(layout) for layout in found}) == len(found)
    two_and_four = possible_layouts(2, shape, 16, 8) + possible_layouts(4, shape, 16, 8)
    assert len(two_and_four) >= 40
    assert {layout.schedule for layout in two_and_four} > {"gpipe", "1f1b", "zero-bubble", "zero-bubble-v"}
    assert any(layout.micro_batches for layout in two_and_four)


def test_lists_and_other_trainers_names_are_understood() -> None:
    text = """
    tensor_parallel_size = 2
    gradient_checkpointing = true
    sharding_strategy = "SHARD_GRAD_OP"
    bf16 = true
    fp16 = false
    """
    layout = parse_spec(text).layout
    assert (layout.tp, layout.checkpointing, layout.strategy, layout.precision) == (2, "full", "zero2", "bf16-mixed")
    spec = override_spec(GOOD, ["layout.hosts=one,two", "layout.stages=4,2", "layout.devices=[0,1]", "fp16=true"])
    assert (spec.layout.hosts, spec.layout.stages, spec.layout.devices) == (("one", "two"), (4, 2), (0, 1))
    assert spec.layout.precision == "fp16-mixed"
    assert parse_spec(dump_spec(spec)) == spec
    assert override_spec(GOOD, ["layout.hosts=alone"]).layout.hosts == ("alone",)


_VALUES = [
    "none", "0", "1", "2", "3", "5", "8", "-1", "64", "1000000007", "-9", f"{10**30}", "[]", "[0]", "[1,2]", "[3,3]",
    "[2,2,2]", f"[{10**30},1]", "true", "false", "a,b", "''", "nan", "inf", "0.5", "fsdp", "tensor", "pipeline", "hsdp",
    "zero-bubble", "zero-bubble-v", "interleaved-1f1b", "gpipe", "full", "bf16-mixed", "fp16-mixed", "fp8", "muon",
    "adafactor", "hybrid", "single", "ddp", "zero2", "cuda", "mps", "cpu",
]  # fmt: skip


@pytest.mark.parametrize("seed", range(15))
def test_no_combination_of_values_is_worse_than_a_problem(seed: int) -> None:
    """Twenty draws a seed: fields of layout, batch and shape with values that fit their type, sensible or not."""
    from engine.contract.errors import SpecError

    chance = random.Random(seed)
    fields = [name for name in FIELDS if name.startswith(("layout.", "model."))]
    fields += ["optim.batch_size", "optim.name", "data.sequence_length", "tokenizer.kind"]
    for _ in range(20):
        spec = GOOD
        for field in chance.sample(fields, chance.randint(1, 8)):
            for _ in range(6):
                try:
                    spec = override_spec(spec, [f"{field}={chance.choice(_VALUES)}"])
                except SpecError:
                    continue
                break
        for machine in (TWO_CORES, EIGHT_GPUS, MAC):
            found = check(spec, machine)
            layout = resolve_layout(spec, machine) if not found else None
            assert found or isinstance(layout, Layout)
            assert all(problem.message and len(str(problem)) < 500 for problem in found)
            if isinstance(layout, Layout):
                assert prod(sizes(layout)) == len(layout.device_indices) * len(layout.hosts or ("",))
