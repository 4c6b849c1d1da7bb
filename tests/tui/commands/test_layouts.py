"""``plan``, ``strategies`` and ``resume --set``: layouts on the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest

from engine.contract.plan import read_plan
from engine.contract.rundir import RunDirectory
from engine.contract.spec import Strategy
from engine.contract.specfile import read_spec

Call = Callable[..., Any]


def test_plan_draws_the_mesh_and_has_the_memory_of_every_rank(call: Call) -> None:
    sets = [
        word for setting in ("strategy=pipeline", "layout.devices=2", "batch_size=8") for word in ("--set", setting)
    ]
    done = call("plan", "quickstart", *sets)
    assert done.code == 0, done.err
    assert "pipeline on 2 x cpu" in done.out
    assert "layers 2-3" in done.out
    assert "1 cpu:1" in done.out
    (best,) = call("plan", "quickstart", *sets, "--json").json["plans"]
    assert (best["layout"]["pp"], best["layout"]["stages"]) == (2, [2, 2])
    assert len(set(best["memory_bytes"])) == 2
    assert f"rank {best['memory_bytes'].index(max(best['memory_bytes']))}, which needs most" in done.out
    assert "of each rank: " in done.out
    alone = call("plan", "quickstart")
    assert "rank" not in alone.out


def test_a_dry_run_shows_the_mesh_before_the_command(call: Call) -> None:
    done = call("train", "quickstart", "--dry-run", "--set", "strategy=tensor", "--set", "layout.devices=2")
    assert done.code == 0, done.err
    assert done.out.index("tp 1") < done.out.index("--nproc-per-node 2")


def test_all_problems_of_a_layout_are_told_with_their_fields(call: Call) -> None:
    sets = ["--set", "strategy=tensor", "--set", "layout.devices=3", "--set", "optim.lr=-1"]
    done = call("train", "quickstart", *sets)
    assert done.code == 2
    assert "optim.lr: must be above 0" in done.err
    assert "heads cannot be split over tp = 3" in done.err
    assert call("runs", "--json").json == {"runs": []}


def test_every_strategy_has_a_line(call: Call) -> None:
    found = call("strategies", "--json").json["strategies"]
    assert [strategy["name"] for strategy in found] == list(get_args(Strategy))
    words = call("strategies").out
    assert all(strategy["line"] in words for strategy in found)
    assert "pp, schedule, stages" in words


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[RunDirectory]:
    """The runs that were started: the start of processes is tried by the tests of the engine."""
    runs: list[RunDirectory] = []
    monkeypatch.setattr("engine.runs.control.start", runs.append)
    return runs


def test_a_run_goes_on_under_the_layout_that_was_set(
    call: Call, ended_run: RunDirectory, begun: list[RunDirectory]
) -> None:  # fmt: skip
    sets = ["--set", "layout.strategy=fsdp", "--set", "layout.devices=2", "--set", "budget.max_steps=80"]
    said = "the layout changes from single to fsdp (fsdp 2), the budget from max_steps 40 to max_steps 80"
    dry = call("resume", ended_run.id, *sets, "--dry-run")
    assert dry.code == 0, dry.err
    assert dry.out.startswith(said)
    assert "fsdp on 2 x cpu" in dry.out
    seen = call("resume", ended_run.id, *sets, "--dry-run", "--json").json
    assert (seen["former_layout"]["dp_shard"], seen["layout"]["dp_shard"], seen["message"]) == (1, 2, said)
    assert (begun, list(ended_run.path.glob("*.1"))) == ([], [])
    done = call("resume", ended_run.id, *sets, "--json")
    assert done.code == 0, done.err
    assert set(done.json) >= {"run", "directory", "state"}
    assert [run.path for run in begun] == [ended_run.path]
    plan = read_plan(ended_run)
    assert plan is not None
    assert (plan.layout.dp_shard, plan.layout.batch_size, plan.budget.max_steps) == (2, 8, 80)
    assert plan.estimate is not None
    assert read_spec(ended_run.spec).layout.strategy == "fsdp"
    assert ended_run.path.joinpath("spec.toml.1").exists()


def test_what_is_not_of_the_layout_is_refused_and_nothing_is_touched(
    call: Call, ended_run: RunDirectory, begun: list[RunDirectory]
) -> None:  # fmt: skip
    done = call("resume", ended_run.id, "--set", "optim.lr=1", "--set", "model.layers=3", "--set", "layout.tp=64")
    assert done.code == 2
    for words in ("3 problems in the new layout", "optim.lr: belongs to the run", "model.layers", "layout.tp"):
        assert words in done.err
    assert (begun, list(ended_run.path.glob("*.1"))) == ([], [])


def test_a_field_of_the_run_is_refused_before_its_state(
    call: Call, ended_run: RunDirectory, begun: list[RunDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr("engine.runs.relayout.read_state", lambda run: ("running", None))
    done = call("resume", ended_run.id, "--set", "model.layers=3")
    assert done.code == 2
    assert "model.layers: belongs to the run" in done.err
    done = call("resume", ended_run.id, "--set", "layout.micro_batch=1")
    assert done.code == 1
    assert f"traindeck stop {ended_run.id} --wait" in done.err
    assert begun == []


def test_a_live_run_is_to_be_stopped_first(call: Call, new_run: Callable[..., RunDirectory]) -> None:
    run = new_run("young")
    done = call("resume", run.id, "--set", "layout.strategy=fsdp")
    assert done.code == 1
    assert f"traindeck stop {run.id} --wait" in done.err
