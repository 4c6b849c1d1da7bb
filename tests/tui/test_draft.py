"""Texts of a form become values and overrides, and lose nothing on the way."""

from __future__ import annotations

import shlex
from typing import get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from engine.contract.check import check
from engine.contract.errors import Problem
from engine.contract.spec import DataSpec, EvaluationSpec, LayoutSpec, OptimSpec, RunSpec
from engine.contract.specfile import FIELDS as ALL_FIELDS
from engine.contract.specfile import PARTS, override_spec
from engine.runs.profiles import list_profiles
from tests.tui.machines import LAPTOP
from tui.draft import FIELDS, Draft, read_text, settings, text_of
from tui.judge import judge


def test_every_field_of_a_spec_is_in_the_form_with_help() -> None:
    assert set(FIELDS) == set(ALL_FIELDS)
    assert [field.name for field in FIELDS.values() if not field.help] == []


def test_an_untouched_draft_is_its_base() -> None:
    for profile in list_profiles():
        assert profile.spec is not None
        draft = Draft(profile.spec, profile.name)
        assert draft.read() == (profile.spec, [])
        assert not draft.changed
        assert draft.command(profile.spec) == f"traindeck train {profile.name}"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("optim.lr", "3e-4", 3e-4),
        ("optim.lr", "1", 1.0),
        ("budget.max_steps", "1_000", 1000),
        ("budget.max_steps", "1,000", 1000),
        ("budget.max_steps", "1e3", 1000),
        ("budget.max_steps", "", None),
        ("optim.clip_norm", " ", None),
        ("layout.devices", "2", 2),
        ("layout.devices", "0,3", (0, 3)),
        ("layout.devices", "[1]", (1,)),
        ("layout.stages", "4,4, 2", (4, 4, 2)),
        ("layout.stages", "3 2", (3, 2)),
        ("layout.micro_batches", "", None),
        ("layout.hosts", "localhost, nas", ("localhost", "nas")),
        ("layout.hosts", '["nas"]', ("nas",)),
        ("model.bias", "yes", True),
        ("model.bias", "", None),
        ("data.text_field", "", None),
        ("name", "12", "12"),
        ("evaluation.prompt", "a\\nb\\\\n", "a\nb\\n"),
    ],
)
def test_texts_are_read(name: str, text: str, value: object) -> None:
    assert read_text(FIELDS[name], text) == value


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("optim.lr", "fast", "'fast' is not a number"),
        ("optim.lr", "", "needs a value"),
        ("budget.max_steps", "1.5", "not a whole number"),
        ("budget.max_steps", "inf", "not a whole number"),
        ("budget.max_steps", "nan", "not a whole number"),
        ("layout.stages", "3,many", "'many' is not a whole number"),
        ("layout.devices", "all", "neither a count nor a list"),
    ],
)
def test_what_cannot_be_read_is_told_at_its_field(name: str, text: str, words: str) -> None:
    problem = read_text(FIELDS[name], text)
    assert isinstance(problem, Problem)
    assert problem.field == name
    assert words in problem.message


def test_a_bad_field_does_not_hide_the_problems_of_others() -> None:
    draft = Draft(RunSpec(), "quickstart")
    draft.texts |= {"optim.lr": "x", "model.heads": "5", "optim.beta1": "2"}
    fields = {problem.field for problem in judge(draft, LAPTOP).problems}
    assert {"optim.lr", "model.heads", "optim.beta1", "budget.max_steps"} <= fields


TEXT = st.text(max_size=20)


@settings_of_hypothesis(max_examples=40, deadline=None)
@given(
    name=TEXT, source=TEXT, prompt=TEXT, lr=st.floats(allow_nan=False, allow_infinity=False),
    clip=st.none() | st.floats(0.1, 9), devices=st.none() | st.integers(1, 9) | st.tuples(st.integers(0, 9)),
    every=st.none() | st.integers(1, 10**9), nesterov=st.booleans(),
    stages=st.none() | st.lists(st.integers(1, 99), min_size=1, max_size=4).map(tuple),
    hosts=st.none() | st.lists(st.from_regex(r"[a-z0-9.@_-]+", fullmatch=True), min_size=1, max_size=3).map(tuple),
)  # fmt: skip
def test_the_command_line_says_exactly_what_was_typed(
    name: str, source: str, prompt: str, lr: float, clip: float | None, devices: int | tuple[int, ...] | None,
    every: int | None, nesterov: bool, stages: tuple[int, ...] | None, hosts: tuple[str, ...] | None,
) -> None:  # fmt: skip
    wanted = RunSpec(
        name=name,
        data=DataSpec(source=source),
        optim=OptimSpec(lr=lr, clip_norm=clip, nesterov=nesterov),
        layout=LayoutSpec(devices=devices, stages=stages, hosts=hosts),
        evaluation=EvaluationSpec(prompt=prompt, every_steps=every),
    )
    assert override_spec(RunSpec(), settings(RunSpec(), wanted)) == wanted
    draft = Draft(RunSpec(), "base")
    draft.texts = {field: text_of(_value(wanted, field)) for field in FIELDS}
    spec, problems = draft.read()
    assert problems == []
    assert spec == wanted
    words = shlex.split(draft.command(spec))
    assert override_spec(RunSpec(), words[4::2]) == wanted


def _value(spec: RunSpec, name: str) -> object:
    table, _, leaf = name.rpartition(".")
    return getattr(getattr(spec, table) if table else spec, leaf)


def test_a_verdict_has_exact_parameters_layout_memory_and_totals() -> None:
    draft = Draft(RunSpec(), "quickstart")
    draft.texts |= {"budget.max_steps": "100", "layout.devices": "2", "optim.batch_size": "32"}
    verdict = judge(draft, LAPTOP)
    assert verdict.problems == ()
    assert check(verdict.spec, LAPTOP) == []
    assert verdict.estimate is not None
    assert verdict.estimate.layout.world_size == 2
    assert verdict.estimate.tokens_total == 100 * 32 * 256
    assert verdict.parameters == verdict.estimate.parameters
    assert verdict.estimate.fits is True


def test_a_model_that_cannot_fit_is_a_doubt_with_a_way_out() -> None:
    draft = Draft(RunSpec(), "quickstart")
    draft.texts |= {"budget.max_steps": "100", "model.preset": "llama-70b"}
    verdict = judge(draft, LAPTOP)
    assert verdict.problems == ()
    assert verdict.estimate is not None
    assert verdict.estimate.fits is False
    assert [doubt.field for doubt in verdict.doubts] == ["model.preset"]
    assert verdict.doubts[0].hint


def test_parts_are_all_structs_of_the_contract() -> None:
    hints = get_type_hints(RunSpec)
    assert {name for name, kind in hints.items() if isinstance(kind, type) and issubclass(kind, msgspec.Struct)} == set(
        PARTS
    )
