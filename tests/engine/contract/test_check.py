"""``check`` names every problem with its field, and layouts follow from what is asked."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from engine.contract.check import check, name_problem, require
from engine.contract.errors import SpecError
from engine.contract.layout import Layout, resolve_layout
from engine.contract.limits import divisors
from engine.contract.machine import Device, Machine
from engine.contract.presets import PRESETS, resolve_shape
from engine.contract.spec import BudgetSpec, ModelSpec, RunSpec
from engine.contract.specfile import override_spec

GOOD = RunSpec(name="good", budget=BudgetSpec(max_steps=10))
CPU = Machine(host="h", devices=(Device(index=0, kind="cpu", slots=4),), cpu_cores=4)
TWO_GPUS = Machine(
    host="h",
    devices=(
        Device(index=0, kind="cuda"),
        Device(index=1, kind="cuda"),
        Device(index=2, kind="cuda", problem="lost"),
        Device(index=0, kind="cpu", slots=4),
    ),
    cpu_cores=4,
)


def fields(*overrides: str, machine: Machine | None = None) -> set[str]:
    return {problem.field for problem in check(override_spec(GOOD, overrides), machine)}


def test_a_good_spec_has_no_problems() -> None:
    assert check(GOOD, CPU) == []
    require(GOOD, TWO_GPUS)


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("name=../escape", "name"),
        ("name=' '", "name"),
        ("data.sequence_length=0", "data.sequence_length"),
        ("data.sequence_length=-4", "data.sequence_length"),
        ("data.validation_fraction=0", "data.validation_fraction"),
        ("data.validation_fraction=1.0", "data.validation_fraction"),
        ("data.validation_fraction=nan", "data.validation_fraction"),
        ("data.source=''", "data.source"),
        ("data.source=/no/such/file.txt", "data.source"),
        ("data.source=nothing-here", "data.source"),
        ("tokenizer.vocabulary=0", "tokenizer.vocabulary"),
        ("tokenizer.vocabulary=99999999", "tokenizer.vocabulary"),
        ("tokenizer.kind=file", "tokenizer.file"),
        ("tokenizer.file=t.json", "tokenizer.kind"),
        ("model.preset=lama-3m", "model.preset"),
        ("model.layers=0", "model.layers"),
        ("model.hidden=-1", "model.hidden"),
        ("model.heads=5", "model.heads"),
        ("model.kv_heads=4", "model.kv_heads"),
        ("model.vocabulary=100", "model.vocabulary"),
        ("model.dropout=1.5", "model.dropout"),
        ("optim.lr=0", "optim.lr"),
        ("optim.lr=inf", "optim.lr"),
        ("optim.lr=nan", "optim.lr"),
        ("optim.batch_size=0", "optim.batch_size"),
        ("optim.beta2=1", "optim.beta2"),
        ("optim.label_smoothing=1", "optim.label_smoothing"),
        ("optim.clip_norm=-1", "optim.clip_norm"),
        ("layout.tp=0", "layout.tp"),
        ("layout.pp=0", "layout.pp"),
        ("layout.devices=0", "layout.devices"),
        ("layout.devices=[0,0]", "layout.devices"),
        ("layout.devices=[]", "layout.devices"),
        ("layout.micro_batch=0", "layout.micro_batch"),
        ("budget.max_steps=none", "budget.max_steps"),
        ("budget.max_seconds=-5", "budget.max_seconds"),
        ("evaluation.top_k=0", "evaluation.top_k"),
        ("checkpoint.keep_last=0", "checkpoint.keep_last"),
        ("seed=-1", "seed"),
    ],
)
def test_one_wrong_field_is_the_only_one_named(override: str, field: str) -> None:
    assert fields(override) == {field}


def test_everything_wrong_is_named_at_once_and_raised_once() -> None:
    wrong = override_spec(GOOD, ["optim.lr=0", "model.layers=0", "data.sequence_length=0"])
    with pytest.raises(SpecError) as caught:
        require(wrong)
    assert {p.field for p in caught.value.problems} == {"optim.lr", "model.layers", "data.sequence_length"}
    assert all(p.message for p in caught.value.problems)


@pytest.mark.parametrize(
    "name", ["a/b", "latest", "LATEST", "..", ".hidden", "-rf", "a\nb", "x" * 81, "", "tab\t", "nul\0"]
)
def test_names_that_could_leave_their_folder_are_refused(name: str) -> None:
    assert name_problem(name)


@pytest.mark.parametrize("name", ["quickstart", "my run 2", "gpt2-1.5b", "训练"])
def test_usual_names_are_accepted(name: str) -> None:
    assert name_problem(name) is None


def test_learned_positions_must_cover_the_sequence() -> None:
    assert fields("model.preset=gpt2-3m", "model.positions=16") == {"model.positions"}
    assert fields("model.positions=16") == set(), "rotary positions have no table to outgrow"


def test_empty_and_unreadable_sources(tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.touch()
    folder = tmp_path / "folder"
    folder.mkdir()
    assert fields(f"data.source={empty}") == {"data.source"}
    assert fields(f"data.source={folder}") == {"data.source"}
    (folder / "a.txt").write_text("text")
    assert fields(f"data.source={folder}") == set()


def layout_of(machine: Machine, *overrides: str) -> Layout:
    layout = resolve_layout(override_spec(GOOD, overrides), machine)
    assert isinstance(layout, Layout), layout
    return layout


def test_the_cpu_takes_one_process_unless_more_are_asked_for() -> None:
    layout = layout_of(CPU)
    assert (layout.strategy, layout.device_indices, layout.threads_per_worker) == ("single", (0,), 4)
    layout = layout_of(CPU, "layout.devices=2")
    assert (layout.strategy, layout.world_size, layout.threads_per_worker) == ("ddp", 2, 2)
    assert layout.batch_size == 32


def test_all_healthy_accelerators_are_taken() -> None:
    assert layout_of(TWO_GPUS).device_indices == (0, 1)
    assert layout_of(TWO_GPUS, "layout.devices=[1]").device_indices == (1,)
    assert layout_of(TWO_GPUS, "layout.strategy=single").device_indices == (0,)


@pytest.mark.parametrize(
    ("machine", "overrides", "field", "text"),
    [
        (CPU, ["layout.devices=9"], "layout.devices", "this machine has 8 CPU worker slots"),
        (TWO_GPUS, ["layout.devices=3"], "layout.devices", "has 2 cuda devices"),
        (TWO_GPUS, ["layout.devices=[2]"], "layout.devices", "no device 2"),
        (CPU, ["layout.accelerator=cuda"], "layout.accelerator", "no usable cuda device"),
        (CPU, ["layout.strategy=single", "layout.devices=2"], "layout.strategy", "cannot use 2 devices"),
        (CPU, ["layout.devices=3", "optim.batch_size=32"], "optim.batch_size", "do not divide among 3"),
        (CPU, ["optim.batch_size=8", "layout.micro_batch=3"], "layout.micro_batch", "is not the batch size 8"),
        (CPU, ["optim.batch_size=8", "layout.micro_batch=16"], "layout.micro_batch", "is not the batch size 8"),
        (TWO_GPUS, ["layout.dp_replicate=4"], "layout.dp_replicate", "dp_replicate = 4 needs 4 devices, and 2 are"),
    ],
)
def test_layouts_that_the_machine_cannot_run(machine: Machine, overrides: list[str], field: str, text: str) -> None:
    found = check(override_spec(GOOD, overrides), machine)
    assert [problem.field for problem in found] == [field]
    assert text in found[0].message


@pytest.mark.parametrize(("strategy", "devices"), [("auto", 4), ("hybrid", 4), ("ddp", 8)])
def test_sizes_that_need_more_devices_than_are_asked_for_say_how_many(strategy: str, devices: int) -> None:
    wanted = ["layout.devices=1", "layout.pp=2", "layout.dp_shard=2"]
    found = check(override_spec(GOOD, [f"layout.strategy={strategy}", *wanted]), CPU)
    assert [problem.field for problem in found] == ["layout.pp"]
    assert f"set layout.devices = {devices}" in found[0].hint
    wanted[0] = f"layout.devices={devices}"
    assert check(override_spec(GOOD, [f"layout.strategy={strategy}", *wanted]), CPU) == []


@pytest.mark.parametrize("devices", range(1, 65))
def test_the_default_batch_divides_among_any_number_of_devices(devices: int) -> None:
    machine = Machine(host="h", devices=(Device(index=0, kind="cpu", slots=64),), cpu_cores=64)
    layout = layout_of(machine, f"layout.devices={devices}")
    assert layout.world_size == devices
    assert 0 < layout.batch_size <= max(32, devices)


def test_batch_follows_from_micro_batch_and_accumulation() -> None:
    layout = layout_of(CPU, "layout.devices=2", "layout.micro_batch=3", "layout.accumulation=4")
    assert layout.batch_size == 24


@pytest.mark.parametrize("preset", list(PRESETS))
def test_every_preset_is_sound(preset: str) -> None:
    assert fields(f"model.preset={preset}") == set()
    shape = resolve_shape(ModelSpec(preset=preset), vocabulary=4096, sequence_length=128)
    assert shape.family == "lstm" or shape.heads * shape.head_size == shape.hidden


def test_replaced_dimensions_keep_the_family_proportions() -> None:
    shape = resolve_shape(ModelSpec(preset="llama-3m", hidden=128, heads=4), vocabulary=300, sequence_length=64)
    assert (shape.hidden, shape.heads, shape.kv_heads, shape.head_size) == (128, 4, 4, 32)
    assert shape.feed_forward == 384, "8/3 of the width, rounded up to 64"
    gpt2 = resolve_shape(ModelSpec(preset="llama-3m", family="gpt2"), vocabulary=300, sequence_length=64)
    assert (gpt2.norm, gpt2.position, gpt2.mlp, gpt2.bias, gpt2.feed_forward) == (
        "layernorm",
        "learned",
        "gelu",
        True,
        4 * gpt2.hidden,
    )


@pytest.mark.parametrize("batch", [None, -3, 0, 1, 7])
@pytest.mark.parametrize("micro", [None, -3, 0, 1, 3])
@pytest.mark.parametrize("accumulation", [None, -3, 0, 1, 3])
def test_senseless_batches_are_problems_and_never_worse(
    batch: int | None, micro: int | None, accumulation: int | None
) -> None:
    wanted = {"optim.batch_size": batch, "layout.micro_batch": micro, "layout.accumulation": accumulation}
    spec = override_spec(GOOD, [f"{field}={'none' if value is None else value}" for field, value in wanted.items()])
    layout = resolve_layout(spec, CPU)
    if any(value is not None and value < 1 for value in wanted.values()):
        assert {problem.field for problem in check(spec, CPU)} >= {
            field for field, value in wanted.items() if value is not None and value < 1
        }
    elif isinstance(layout, Layout):
        assert layout.batch_size == (batch or layout.batch_size)


@pytest.mark.parametrize("digits", ["1000000007", "-1000000007", "9" * 25, "9" * 400, "-" + "9" * 400])
@pytest.mark.parametrize(
    "field",
    [
        "model.layers", "model.hidden", "model.heads", "model.kv_heads", "model.head_size", "model.feed_forward",
        "model.positions", "model.vocabulary", "tokenizer.vocabulary", "data.sequence_length", "optim.batch_size",
        "layout.micro_batch", "layout.accumulation", "layout.devices", "layout.dp_replicate", "layout.tp",
        "layout.threads_per_worker",
    ],
)  # fmt: skip
def test_numbers_out_of_all_proportion_are_told_at_once(field: str, digits: str) -> None:
    spec = override_spec(GOOD, [f"{field}={digits}"])
    begin = time.monotonic()
    problems = check(spec, TWO_GPUS)
    assert time.monotonic() - begin < 1.0
    assert [problem.field for problem in problems] == [field]
    assert len(str(problems[0])) < 120


@pytest.mark.parametrize("field", ["budget.max_steps", "budget.max_tokens", "log_every_steps", "data.max_documents"])
def test_counts_have_an_end_too(field: str) -> None:
    assert fields(f"{field}={10**400}", machine=CPU) == {field}
    assert fields(f"{field}={-(10**400)}", machine=CPU) == {field}


def test_other_problems_are_told_beside_a_number_that_is_too_large() -> None:
    assert fields(f"evaluation.sample_tokens={10**30}", "model.heads=0") == {"evaluation.sample_tokens", "model.heads"}


@pytest.mark.parametrize(("number", "largest"), [(1, 1), (12, 12), (12, 5), (36, 6), (97, 200), (7, 0)])
def test_divisors(number: int, largest: int) -> None:
    assert divisors(number, largest) == [n for n in range(1, min(number, largest) + 1) if number % n == 0]


def test_ddp_takes_what_there_is_or_says_that_it_is_not_enough() -> None:
    asked = override_spec(GOOD, ["layout.strategy=ddp", "layout.accelerator=cpu"])
    layout = resolve_layout(asked, CPU)
    assert isinstance(layout, Layout)
    assert (layout.strategy, layout.world_size) == ("ddp", 4)
    lone = Machine(host="h", devices=(Device(index=0, kind="cpu", slots=1),), cpu_cores=1)
    assert fields("layout.strategy=ddp", machine=lone) == {"layout.strategy"}
    assert fields("layout.strategy=ddp", "layout.devices=1", machine=TWO_GPUS) == {"layout.strategy"}
    assert fields("layout.strategy=ddp", machine=TWO_GPUS) == set()
