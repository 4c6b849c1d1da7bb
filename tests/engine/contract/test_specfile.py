"""TOML in and out, aliases, overrides, and every mistake at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.contract.aliases import ALIASES, VALUES
from engine.contract.errors import SpecError
from engine.contract.source import source_problems
from engine.contract.spec import BudgetSpec, DataSpec, LayoutSpec, OptimSpec, RunSpec
from engine.contract.specfile import FIELDS, dump_spec, override_spec, parse_spec, read_spec


def problems_of(text: str, *overrides: str) -> dict[str, str]:
    with pytest.raises(SpecError) as caught:
        parse_spec(text, overrides)
    return {problem.field: f"{problem.message} ({problem.hint})" for problem in caught.value.problems}


def test_a_default_spec_survives_the_file() -> None:
    assert parse_spec(dump_spec(RunSpec())) == RunSpec()


@given(
    name=st.text(min_size=1, max_size=30),
    lr=st.floats(min_value=1e-9, max_value=10),
    clip=st.none() | st.floats(min_value=0.01, max_value=10),
    devices=st.none() | st.integers(1, 8) | st.lists(st.integers(0, 7), min_size=1).map(tuple),
    every=st.none() | st.integers(1, 100),
    source=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40),
)
def test_any_spec_survives_the_file(
    name: str,
    lr: float,
    clip: float | None,
    devices: int | tuple[int, ...] | None,
    every: int | None,
    source: str,
) -> None:
    spec = RunSpec(
        name=name,
        data=DataSpec(source=source),
        optim=OptimSpec(lr=lr, clip_norm=clip),
        layout=LayoutSpec(devices=devices),
        budget=BudgetSpec(max_steps=every),
    )
    assert parse_spec(dump_spec(spec)) == spec


def test_switching_off_survives_the_file() -> None:
    spec = override_spec(RunSpec(), ["optim.clip_norm=none", "evaluation.top_k=none"])
    assert spec.optim.clip_norm is None
    assert parse_spec(dump_spec(spec)) == spec


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("micro_batch_size = 4", "layout.micro_batch", 4),
        ("per_device_train_batch_size = 4", "layout.micro_batch", 4),
        ("[layout]\nmicro_batch_size = 4", "layout.micro_batch", 4),
        ("[optim]\nlearning_rate = 3e-4", "optim.lr", 3e-4),
        ("[model]\nnum_key_value_heads = 2", "model.kv_heads", 2),
        ("block_size = 64", "data.sequence_length", 64),
        ("bf16 = true", "layout.precision", "bf16-mixed"),
        ('lr_scheduler_type = "wsd"', "optim.schedule", "warmup-stable-decay"),
        ("max_iters = 7", "budget.max_steps", 7),
    ],
)
def test_names_of_other_trainers(text: str, field: str, value: object) -> None:
    part, leaf = field.split(".")
    assert getattr(getattr(parse_spec(text), part), leaf) == value


def test_every_alias_leads_to_a_field() -> None:
    assert set(ALIASES.values()) | set(VALUES) <= set(FIELDS)
    assert not set(ALIASES) & set(FIELDS)


def test_a_field_given_twice_with_different_values_is_refused() -> None:
    assert "given twice" in problems_of("learning_rate = 1e-3\n[optim]\nlr = 2e-3")["optim.lr"]
    assert parse_spec("learning_rate = 2e-3\n[optim]\nlr = 2e-3").optim.lr == 2e-3


def test_all_mistakes_are_reported_together_with_the_nearest_name() -> None:
    found = problems_of('lyaout = 1\n[model]\nlayer = 3\nheads = "a"\n[optim]\nschedule = "cos"\nwarmup = 3')
    assert "model.layers" in found["model.layer"]
    assert "optim.warmup_steps" in found["optim.warmup"]
    assert "a whole number" in found["model.heads"]
    assert "constant, linear, cosine" in found["optim.schedule"]
    assert "no such field" in found["lyaout"]


@pytest.mark.parametrize(
    ("written", "field"),
    [("optim.learningrate", "optim.lr"), ("layout.microbatch", "layout.micro_batch"), ("sed", "seed"),
     ("model.n_layrs", "model.layers"), ("optm.lr", "optim.lr")],
)  # fmt: skip
def test_the_nearest_name_is_found_among_all_names_of_a_field(written: str, field: str) -> None:
    assert f"'{field}'" in problems_of("", f"{written}=1")[written.partition(".")[0] if "optm" in written else written]


def test_a_field_in_the_wrong_table_is_shown_its_place() -> None:
    assert "'data.sequence_length'" in problems_of("[model]\nsequence_length = 64")["model.sequence_length"]


@pytest.mark.parametrize(
    ("override", "field", "value"),
    [
        ("optim.lr=3e-4", "optim.lr", 3e-4),
        ("lr=3", "optim.lr", 3.0),
        ("data.source=/tmp/a b.txt", "data.source", "/tmp/a b.txt"),
        ('data.source="x=y"', "data.source", "x=y"),
        ("layout.devices=[0, 1]", "layout.devices", (0, 1)),
        ("layout.devices=2", "layout.devices", 2),
        ("optim.clip_norm=none", "optim.clip_norm", None),
        ("model.tied_embeddings=true", "model.tied_embeddings", True),
    ],
)
def test_overrides(override: str, field: str, value: object) -> None:
    part, leaf = field.split(".")
    assert getattr(getattr(override_spec(RunSpec(), [override]), part), leaf) == value


def test_the_last_override_wins_over_the_file() -> None:
    assert parse_spec("lr = 1.0", ["lr=2.0", "optim.lr=3.0"]).optim.lr == 3.0


@pytest.mark.parametrize("override", ["lr", "=3", "optim.lrr=3", "optim=3", "optim.lr=fast", "a.b.c.d=1"])
def test_bad_overrides_are_named(override: str) -> None:
    with pytest.raises(SpecError):
        override_spec(RunSpec(), [override])


def test_a_file_that_is_no_toml_says_where(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("lr = = 3")
    with pytest.raises(SpecError, match=r"bad\.toml(.|\n)*not TOML.*line 1"):
        read_spec(path)
    path.write_bytes(b"name = '\xff'")
    with pytest.raises(SpecError, match="byte 8 is not UTF-8"):
        read_spec(path)
    with pytest.raises(SpecError, match="No such file"):
        read_spec(tmp_path / "none.toml")
    with pytest.raises(SpecError, match="directory"):
        read_spec(tmp_path)


def raises_only_spec_errors(act: Callable[[], RunSpec]) -> bool:
    """True for a spec or a SpecError with problems; anything else that is raised passes through."""
    try:
        return isinstance(act(), RunSpec)
    except SpecError as error:
        return bool(error.problems)


@given(st.text(max_size=200))
def test_no_text_does_more_than_raise_a_spec_error(text: str) -> None:
    assert raises_only_spec_errors(lambda: parse_spec(text))


@given(st.text(max_size=60))
def test_no_override_does_more_than_raise_a_spec_error(text: str) -> None:
    assert raises_only_spec_errors(lambda: override_spec(RunSpec(), [text]))


def test_wrong_words_and_wrong_values_are_told_together() -> None:
    found = problems_of("", "optim.lr=abc", "model.preset=huge", "data.sequence_length=-1", "foo.bar=1", "seed=-1")
    assert {"optim.lr", "model.preset", "data.sequence_length", "foo", "seed"} <= set(found)
    assert "a number" in found["optim.lr"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("layout.devices=x", "a whole number or a list of whole numbers"),
        ("model.tied_embeddings=3", "true or false"),
        ("name=3", "text"),
        ("optim.lr=1" + "0" * 400, "a number"),
        ("model=3", "must be a table"),
    ],
)
def test_what_a_field_takes_is_said_in_plain_words(override: str, words: str) -> None:
    assert words in " ".join(problems_of("", override).values())


def test_an_empty_value_is_empty_text_or_nothing() -> None:
    assert override_spec(RunSpec(), ["description=", "tokenizer.file="]).tokenizer.file is None
    assert override_spec(RunSpec(), ["data.source="]).data.source == ""


@pytest.mark.parametrize("text", ["x=" + "[" * 100_000, "seed=" + "9" * 6000])
def test_monstrous_toml_is_refused_plainly(text: str) -> None:
    with pytest.raises(SpecError, match="not TOML"):
        parse_spec(text)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "spec.toml"
    os.mkfifo(pipe)
    with pytest.raises(SpecError, match="pipe, socket or device"):
        read_spec(pipe)
    with pytest.raises(SpecError, match="pipe, socket or device"):
        read_spec(Path("/dev/zero"))
    large = tmp_path / "large.toml"
    large.write_bytes(b"#" * (1 << 21))
    with pytest.raises(SpecError, match="at most"):
        read_spec(large)


def test_what_is_no_file_is_no_data(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.txt"
    os.mkfifo(pipe)
    for source in (pipe, Path("/dev/zero")):
        (problem,) = source_problems(DataSpec(source=str(source)))
        assert "pipe, socket or device" in problem.message
        assert problem.hint


@pytest.mark.parametrize(
    ("override", "choices"),
    [
        ("layout.strategy=fdsp", "auto, single, ddp"),
        ("layout.schedule=1fb1", "gpipe, 1f1b, interleaved-1f1b"),
        ("model.family=gpt", "gpt2, llama, lstm"),
    ],
)
def test_a_wrong_word_is_answered_with_the_choices(override: str, choices: str) -> None:
    assert f"choose from {choices}" in problems_of("", override)[override.partition("=")[0]]
