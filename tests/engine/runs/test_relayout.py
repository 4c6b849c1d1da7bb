"""A run goes on under another layout: what may change, what follows, what is kept, and that training goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from engine.contract.errors import RunError, SpecError
from engine.contract.events import Event, Notice, Started, State, Train
from engine.contract.journal import EventReader, Journal
from engine.contract.layout import Layout
from engine.contract.machine import Device, Machine
from engine.contract.plan import PlanFile, read_plan
from engine.contract.rundir import RunDirectory
from engine.contract.spec import (
    BudgetSpec,
    CheckpointSpec,
    DataSpec,
    EvaluationSpec,
    LayoutSpec,
    ModelSpec,
    OptimSpec,
    RunSpec,
    TokenizerSpec,
)
from engine.contract.specfile import read_spec
from engine.runs import control
from engine.runs.create import create_run
from engine.runs.launch import start
from engine.runs.liveness import read_identity
from engine.runs.processes import Known, end_leftovers
from engine.runs.relayout import Relayout, change_layout, plan_relayout
from engine.runs.status import read_state

MACHINE = Machine(host="here", devices=(Device(index=0, kind="cpu", slots=4),), cpu_cores=4)
DEADLINE_SECONDS = 150.0
Made = Callable[..., RunDirectory]


@pytest.fixture
def ended(home: Path) -> Made:
    """Makes a run of 16 sequences a step on two CPU workers that was stopped."""

    def make(optim: OptimSpec | None = None, **layout: object) -> RunDirectory:
        layout = {"strategy": "ddp", "devices": 2, "micro_batch": 4, "accumulation": 2, **layout}
        spec = RunSpec(
            name="there", budget=BudgetSpec(max_steps=100), layout=msgspec.convert(layout, LayoutSpec),
            optim=optim or OptimSpec(),
        )  # fmt: skip
        decided = Layout(
            strategy="ddp", accelerator="cpu", device_indices=(0, 1), dp_replicate=2, micro_batch=4, accumulation=2,
            precision="fp32", threads_per_worker=2,
        )  # fmt: skip
        run = create_run(spec, MACHINE, decided, None)
        with Journal(run.events_of("supervisor")) as supervisor:
            supervisor.write(State(state="finished", reason="stopped"))
        return run

    return make


def changed(run: RunDirectory, *overrides: str) -> Relayout:
    return plan_relayout(run, overrides, MACHINE)


def problems(run: RunDirectory, *overrides: str) -> dict[str, str]:
    """Messages and hints by field."""
    with pytest.raises(SpecError) as caught:
        plan_relayout(run, overrides, MACHINE)
    return {problem.field: f"{problem.message} ({problem.hint})" for problem in caught.value.problems}


def test_the_batch_stays_and_what_makes_it_follows(ended: Made) -> None:
    change = changed(ended(), "layout.devices=4")
    assert (change.layout.dp_replicate, change.layout.batch_size) == (4, 16)
    assert (change.layout.micro_batch, change.layout.accumulation) == (4, 1)
    assert change.spec.optim.batch_size == 16
    alone = changed(ended(), "layout.strategy=single")
    assert (alone.layout.world_size, alone.layout.batch_size, alone.layout.accumulation) == (1, 16, 4)


def test_a_micro_batch_that_no_longer_divides_is_found_anew_unless_it_was_given(ended: Made) -> None:
    run = ended(OptimSpec(batch_size=12), micro_batch=6, accumulation=1)
    plan = read_plan(run)
    assert plan is not None
    wider = msgspec.structs.replace(plan.layout, micro_batch=6, accumulation=1)
    run.plan.write_bytes(msgspec.json.encode(PlanFile(layout=wider)))
    change = changed(run, "layout.devices=4")
    assert (change.layout.micro_batch, change.layout.accumulation) == (3, 1)
    assert "is not the batch size 12" in problems(run, "layout.devices=4", "layout.micro_batch=6")["layout.micro_batch"]


def test_uneven_micro_batches_are_dropped_with_another_number_of_data_ranks(ended: Made) -> None:
    run = ended(OptimSpec(batch_size=16), micro_batch=None, micro_batches=(3, 5), accumulation=None)
    plan = read_plan(run)
    assert plan is not None
    uneven = msgspec.structs.replace(plan.layout, micro_batch=5, micro_batches=(3, 5))
    run.plan.write_bytes(msgspec.json.encode(PlanFile(layout=uneven)))
    assert changed(run, "layout.precision=bf16-mixed").layout.micro_batches == (3, 5)
    wider = changed(run, "layout.devices=4")
    assert (wider.spec.layout.micro_batches, wider.layout.dp_replicate, wider.layout.batch_size) == (None, 4, 16)
    assert changed(run, "layout.micro_batch=4").layout.micro_batches is None
    assert (
        "2 micro-batches are listed"
        in problems(run, "layout.devices=4", "layout.micro_batches=[3,5]")["layout.micro_batches"]
    )


def test_what_a_layout_would_want_of_the_model_is_told_without_a_remedy_that_is_refused(ended: Made) -> None:
    run = ended(dp_replicate=2)
    sizes = "feed_forward = 1537\nvocabulary = 4097"
    run.spec.write_text(run.spec.read_text().replace("[model]", f"[model]\n{sizes}", 1))
    spec = read_spec(run.spec)
    assert (spec.model.feed_forward, spec.model.vocabulary) == (1537, 4097)
    told = problems(run, "strategy=tensor", "layout.tp=2", "layout.devices=2")
    assert set(told) == {"model.feed_forward", "model.vocabulary"}
    for name, text in told.items():
        assert "cannot be split over tp = 2" in text
        assert f"set {name}" not in text
        assert "it belongs to the run: choose another layout" in text
    positions = spec.data.sequence_length
    run.spec.write_text(run.spec.read_text().replace(f"sequence_length = {positions}", "sequence_length = 129"))
    assert read_spec(run.spec).data.sequence_length == 129
    told = problems(run, "strategy=auto", "layout.cp=2")
    assert "choose another layout" in told["data.sequence_length"]


def test_another_batch_must_be_asked_for_by_name(ended: Made) -> None:
    run = ended()
    told = problems(run, "layout.micro_batch=8", "layout.accumulation=4")
    assert "is not the batch size 16" in next(iter(told.values()))
    change = changed(run, "optim.batch_size=64")
    assert (change.layout.batch_size, change.spec.optim.batch_size) == (64, 64)
    assert "the batch from 16 to 64 sequences" in change.message


def test_another_strategy_begins_without_the_sizes_of_the_former(ended: Made) -> None:
    run = ended(dp_replicate=2)
    assert changed(run, "strategy=single").spec.layout.dp_replicate is None
    assert changed(run, "layout.precision=bf16-mixed").spec.layout.dp_replicate == 2
    assert changed(run, "strategy=auto", "layout.dp_replicate=2").spec.layout.dp_replicate == 2


def test_what_is_the_runs_own_is_refused_by_name_together_with_all_else(ended: Made) -> None:
    run = ended()
    told = problems(run, "learning_rate=1", "model.layers=9", "seed=1", "layout.devices=64", "budget.max_steps=-1")
    assert set(told) == {"optim.lr", "model.layers", "seed", "layout.devices", "budget.max_steps"}
    assert "belongs to the run" in told["optim.lr"]
    assert "64 devices are asked for" in told["layout.devices"]
    assert set(problems(run, "data.no_such=1")) == {"data.no_such"}
    unreadable = problems(run, "layout.tp=many", "layout.tensor=2", "optim.lr=5")
    assert set(unreadable) == {"layout.tp", "layout.tensor", "optim.lr"}
    assert changed(run, "optim.lr=1e-3", "strategy=single").layout.world_size == 1  # it is that already
    assert list(run.path.glob("*.1")) == []


def test_text_that_has_gone_since_it_was_prepared_does_not_matter(ended: Made, tmp_path: Path) -> None:
    run = ended()
    text = run.spec.read_text().replace('"python-stdlib"', f'"{tmp_path}/gone.txt"')
    run.spec.write_text(text)
    assert changed(run, "layout.devices=4").spec.data.source == f"{tmp_path}/gone.txt"


def test_the_former_files_stay_and_an_event_says_from_what_to_what(ended: Made) -> None:
    run = ended()
    before = run.spec.read_bytes(), run.plan.read_bytes()
    change_layout(run, changed(run, "layout.devices=4", "budget.max_steps=200"), {"plans": []})
    assert (run.path.joinpath("spec.toml.1").read_bytes(), run.path.joinpath("plan.json.1").read_bytes()) == before
    plan = read_plan(run)
    assert plan is not None
    assert (plan.layout.dp_replicate, plan.budget.max_steps, plan.estimate) == (4, 200, {"plans": []})
    assert read_spec(run.spec).layout.devices == 4
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in run.path.glob("*.toml*"))
    change_layout(run, changed(run, "strategy=single"))
    assert run.path.joinpath("plan.json.2").exists()
    notices = [event.message for event in _events(run, "supervisor") if isinstance(event, Notice)]
    assert "from ddp (dp 2) to ddp (dp 4)" in notices[0]
    assert "max_steps 100 to max_steps 200" in notices[0]
    assert "from ddp (dp 4) to single" in notices[1]
    assert read_state(run) == ("finished", "stopped")


def test_what_changes_nothing_writes_nothing(ended: Made) -> None:
    run = ended(OptimSpec(batch_size=16), accumulation=None)
    change_layout(run, changed(run, "layout.devices=2"))
    assert list(run.path.glob("*.1")) == []


def test_a_run_that_trains_is_to_be_stopped_first(ended: Made) -> None:
    run = ended()
    change = changed(run, "layout.devices=4")
    with Journal(run.events_of("rank0")) as rank0:
        rank0.write(State(state="running"))
        run.supervisor.write_bytes(msgspec.json.encode(_myself()))
        with Journal(run.events_of("supervisor")) as supervisor:
            supervisor.write(State(state="starting"))
            rank0.write(State(state="running"))
        for attempt in (lambda: control.resume_under(run, change), lambda: change_layout(run, change)):
            with pytest.raises(RunError, match="running cannot be changed") as caught:
                attempt()
            assert f"traindeck stop {run.id} --wait" in caught.value.hint
    assert list(run.path.glob("*.1")) == []


def test_what_was_planned_for_a_layout_that_has_gone_is_refused(ended: Made) -> None:
    run = ended()
    as_it_was = changed(run, "layout.devices=2")
    change_layout(run, changed(run, "layout.devices=4"))
    with pytest.raises(RunError, match="changed meanwhile"):
        change_layout(run, as_it_was)


def test_a_damaged_plan_is_told(ended: Made) -> None:
    run = ended()
    run.plan.write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        changed(run, "layout.devices=1")


def _myself() -> object:
    import os

    from engine.hardware.host import identity

    return identity(os.getpid())


def _events(run: RunDirectory, source: str) -> list[Event]:
    return list(EventReader(run.events_of(source)).read_all())


# ---------------------------------------------------------------------- with real processes


@pytest.fixture
def training(tmp_path: Path, home: Path) -> Iterator[RunDirectory]:
    """A run of two workers that trains; what it leaves running is ended."""
    text = tmp_path / "text.txt"
    text.write_text("".join(f"the quick brown fox jumps over {number} lazy dogs\n\n" for number in range(2000)))
    spec = RunSpec(
        name="real",
        data=DataSpec(source=str(text), sequence_length=16),
        tokenizer=TokenizerSpec(kind="bytes"),
        model=ModelSpec(preset="llama-1m", layers=1, hidden=16, heads=2, kv_heads=2, feed_forward=32),
        optim=OptimSpec(batch_size=8),
        layout=LayoutSpec(accelerator="cpu", strategy="ddp", devices=2),
        budget=BudgetSpec(max_steps=10_000_000),
        evaluation=EvaluationSpec(every_steps=None, max_batches=1, sample_tokens=0),
        checkpoint=CheckpointSpec(every_steps=None),
    )
    layout = Layout(
        strategy="ddp", accelerator="cpu", device_indices=(0, 1), dp_replicate=2, micro_batch=4, accumulation=1,
        precision="fp32", threads_per_worker=1,
    )  # fmt: skip
    run = create_run(spec, MACHINE, layout, None)
    start(run)
    yield run
    who = read_identity(run)
    end_leftovers([*([who] if who else []), *Known(run).read()], patience=0.2)


def until(run: RunDirectory, met: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not met():
        state, reason = read_state(run)
        assert state not in {"failed", "lost"}, (reason, run.log.read_text())
        assert time.monotonic() < deadline, f"no {what}"
        time.sleep(0.05)


def test_of_two_who_resume_at_once_the_one_who_starts_gets_the_own_layout(
    ended: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ended()
    mine = changed(run, "layout.devices=4")
    refused: list[RunError] = []

    def resume_other() -> None:
        try:
            control.resume_under(run, changed(run, "strategy=single"))
        except RunError as error:
            refused.append(error)

    rival = threading.Thread(target=resume_other)
    started = threading.Event()

    def start_late(run: RunDirectory) -> None:
        if threading.current_thread() is rival:
            assert started.wait(DEADLINE_SECONDS)
        else:
            rival.start()  # between the change and the start
            rival.join(0.5)
        start(run)

    monkeypatch.setattr(control, "start", start_late)
    try:
        control.resume_under(run, mine)
        started.set()
        rival.join(DEADLINE_SECONDS)
        plan = read_plan(run)
        assert plan is not None
        assert plan.layout == mine.layout
        assert len(refused) == 1
    finally:
        who = read_identity(run)
        end_leftovers([*([who] if who else []), *Known(run).read()], patience=0.2)


@pytest.mark.slow
def test_a_paused_training_goes_on_under_another_layout_where_it_was(training: RunDirectory) -> None:
    run = training
    steps = lambda: [event for event in _events(run, "rank0") if isinstance(event, Train)]  # noqa: E731
    until(run, lambda: len(steps()) > 3, "step")
    with pytest.raises(RunError, match="running cannot be changed"):
        control.resume_under(run, changed(run, "strategy=single"))
    control.request(run, "pause")
    until(run, lambda: read_state(run)[0] == "paused", "pause")
    last = steps()[-1]
    assert last.step is not None
    control.resume_under(run, changed(run, "strategy=single", f"budget.max_steps={last.step + 3}"))
    until(run, lambda: read_state(run)[0] == "finished", "end")
    begun = [event for event in _events(run, "rank0") if isinstance(event, Started)]
    assert [(event.world_size, event.batch_size) for event in begun] == [(2, 8), (1, 8)]
    assert begun[1].step == last.step
    after = steps()[len(steps()) - 3 :]
    assert [event.step for event in after] == [last.step + 1, last.step + 2, last.step + 3]
    assert [event.samples for event in after] == [last.samples + 8, last.samples + 16, last.samples + 24]
