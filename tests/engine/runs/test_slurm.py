"""Runs under a real Slurm of two nodes: queued, trained, interrupted, put back, cancelled, refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from engine.contract.errors import RunError
from engine.contract.events import Detached, DevicesFound, Event, Failure, Started, State, Train
from engine.contract.journal import EventReader, Journal
from engine.contract.plan import read_plan
from engine.contract.rundir import RunDirectory, complete_checkpoints
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
from engine.runs import control, slurm
from engine.runs.launch import start
from engine.runs.remove import delete_run
from engine.runs.slurmjob import read_job, write_job
from engine.runs.slurmscript import Options, write_script
from engine.runs.status import read_state, read_status
from tests.engine.runs.slurm_cluster import Cluster, can_unshare, running_cluster

DEADLINE_SECONDS = 150.0
STEPS = 60
NewRun = Callable[..., RunDirectory]
T = TypeVar("T")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as found:
        yield found


@pytest.fixture
def submitted(
    cluster: Cluster, new_run: NewRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., RunDirectory]]:
    """Submits a small training, with options of sbatch. Where a test fails, Slurm's own words are shown."""
    monkeypatch.setenv("SLURM_CONF", str(cluster.configuration))

    def make(max_steps: int = STEPS, **options: str | None) -> RunDirectory:
        run = new_run(spec=small_spec(tmp_path, max_steps))
        asked: Options = {key.replace("_", "-"): value for key, value in options.items()}
        write_script(run, "small", asked)
        start(run)
        return run

    yield make
    print(cluster.said())


def small_spec(folder: Path, max_steps: int = STEPS) -> RunSpec:
    text = folder / "text.txt"
    text.write_text("".join(f"the quick brown fox jumps over {number} lazy dogs\n\n" for number in range(2000)))
    return RunSpec(
        name="small",
        data=DataSpec(source=str(text), sequence_length=16),
        tokenizer=TokenizerSpec(kind="bytes"),
        model=ModelSpec(preset="llama-1m", layers=1, hidden=16, heads=2, kv_heads=2, feed_forward=32),
        optim=OptimSpec(batch_size=4),
        layout=LayoutSpec(accelerator="cpu", devices=1, threads_per_worker=1),
        budget=BudgetSpec(max_steps=max_steps),
        evaluation=EvaluationSpec(every_steps=None, max_batches=1, sample_tokens=0),
        checkpoint=CheckpointSpec(every_steps=100),
    )


def until(look: Callable[[], T], run: RunDirectory, what: str) -> T:
    """What ``look`` returns as soon as it is true. A run that fails instead shows its log."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (found := look()):
        state, reason = read_state(run)
        log = run.log.read_text() if run.log.exists() else ""
        bad = state in {"failed", "lost"} or time.monotonic() > deadline
        assert not bad, (what, state, reason, log[-3000:])
        time.sleep(0.02)
    return found


def events_of(run: RunDirectory, source: str = "rank0") -> list[Event]:
    return list(EventReader(run.events_of(source)).read_all())


def losses_of(run: RunDirectory) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for event in events_of(run):
        if isinstance(event, Train):
            found.setdefault(event.step or 0, []).append(event.loss or 0.0)
    return found


def job_of(run: RunDirectory) -> int:
    job = read_job(run)
    assert job is not None
    return job.job


def states_of(run: RunDirectory) -> list[str]:
    events = events_of(run, "supervisor") + events_of(run)
    told = sorted((event for event in events if isinstance(event, State)), key=lambda event: event.time)
    return [event.state for event in told]


@pytest.mark.timeout(600)  # four starts of torch, on whatever else the machine does
def test_a_job_is_queued_trains_and_finishes_and_the_same_on_two_nodes_that_are_interrupted_twice(
    cluster: Cluster, submitted: Callable[..., RunDirectory]
) -> None:
    alone = submitted(nodes="1")
    assert (read_state(alone)[0], read_status(alone).slurm_job) == ("queued", job_of(alone))
    until(lambda: read_status(alone).slurm_state == "RUNNING", alone, "job that runs")
    until(lambda: read_state(alone)[0] == "finished", alone, "end")
    assert states_of(alone) == ["queued", "starting", "running", "finished"]
    assert [event.how for event in events_of(alone, "supervisor") if isinstance(event, Detached)] == ["slurm"]

    run = submitted(nodes="2")
    job = job_of(run)
    first = interrupt(cluster, run, job, "scancel", "--signal=USR1", "--batch", str(job))
    second = interrupt(cluster, run, job, "scontrol", "requeue", str(job))
    assert 0 < first < second < STEPS
    until(lambda: read_state(run)[0] == "finished", run, "end")

    plan = read_plan(run)
    assert plan is not None
    assert (plan.layout.hosts, plan.layout.world_size) == (("node1", "node2"), 2)
    assert [event.step for event in events_of(run) if isinstance(event, Started)] == [0, first, second]
    expected, found = losses_of(alone), losses_of(run)
    assert list(found) == list(range(1, STEPS + 1)), "no step is left out"
    assert all(len(of_step) == 1 for of_step in found.values()), "no step is trained again"
    assert [found[step][0] for step in found] == pytest.approx([expected[step][0] for step in found], abs=1e-4)
    assert found[1][0] == pytest.approx(5.5, abs=0.5)
    assert found[STEPS][0] < found[1][0] - 0.3
    hosts = {
        event.host
        for path in run.telemetry.iterdir()
        for event in EventReader(path).read_all()
        if isinstance(event, DevicesFound)
    }
    assert hosts == {"node1", "node2"}


def interrupt(cluster: Cluster, run: RunDirectory, job: int, *command: str) -> int:
    """Interrupt a run early, see it saved and queued, and let it go on; the step of the checkpoint.

    It is paused first: a fast machine would be through before Slurm's signal is there.
    """
    before = len(events_of(run))
    until(lambda: any(isinstance(event, Train) for event in events_of(run)[before:]), run, "step")
    control.request(run, "pause")
    until(lambda: read_state(run)[0] == "paused", run, "pause")
    cluster.do(*command)
    until(lambda: read_state(run)[0] == "queued", run, "run back in the queue")
    saved = complete_checkpoints(run)[-1]
    until(lambda: (report := slurm.look(job)) is not None and report.waits, run, "job that waits")
    # Slurm lets a job that was put back wait for about two minutes, and refuses it in the second of its former end.
    until(cluster.is_idle, run, "end of all steps")
    cluster.do("scontrol", "update", f"JobId={job}", "StartTime=now+3")
    return int(saved.name.removeprefix("step-"))


def test_a_cancelled_job_leaves_a_checkpoint_and_is_not_put_back(
    cluster: Cluster, submitted: Callable[..., RunDirectory]
) -> None:
    run = submitted(max_steps=10_000_000)
    until(lambda: any(isinstance(event, Train) for event in events_of(run)), run, "step")
    cluster.do("scancel", str(job_of(run)))
    until(lambda: read_state(run)[0] == "finished", run, "end")
    assert f"Slurm job {job_of(run)} was cancelled" in (read_state(run)[1] or "")
    assert complete_checkpoints(run)
    assert read_status(run).slurm_job == job_of(run)


def test_a_job_that_may_not_be_put_back_is_said_to_be_stopped(
    cluster: Cluster, submitted: Callable[..., RunDirectory]
) -> None:
    run = submitted(max_steps=10_000_000, no_requeue=None)
    until(lambda: any(isinstance(event, Train) for event in events_of(run)), run, "step")
    cluster.do("scancel", "--signal=USR1", "--batch", str(job_of(run)))
    until(lambda: read_state(run)[0] == "finished", run, "end")
    reason = f"stopped: Slurm interrupted job {job_of(run)} and does not start it again"
    assert read_state(run) == ("finished", reason)
    assert complete_checkpoints(run)


def test_a_waiting_job_says_why_and_is_cancelled_by_stop_and_submitted_again_by_resume(
    submitted: Callable[..., RunDirectory],
) -> None:
    run = submitted(hold=None)
    job = job_of(run)
    assert read_state(run) == ("queued", f"Slurm job {job} waits (JobHeldUser)")
    with pytest.raises(RunError, match="cannot be deleted"):
        delete_run(run)
    command = control.request(run, "stop")
    done = control.wait_for(run, command, 1.0)
    assert done is not None
    assert done.accepted
    assert read_state(run) == ("finished", "stopped before training")
    report = slurm.look(job)
    assert report is not None
    assert report.state == "CANCELLED"

    control.resume(run)
    again = job_of(run)
    assert again != job
    assert read_state(run) == ("queued", f"Slurm job {again} waits (JobHeldUser)")


def test_a_waiting_job_that_somebody_cancels_is_lost(cluster: Cluster, submitted: Callable[..., RunDirectory]) -> None:
    run = submitted(hold=None)
    cluster.do("scancel", str(job_of(run)))
    assert read_state(run) == ("lost", f"its Slurm job {job_of(run)} was cancelled")


def test_a_job_that_slurm_has_forgotten_is_lost_and_one_that_cannot_be_asked_for_is_not(
    cluster: Cluster, submitted: Callable[..., RunDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert slurm.look(9_999_999) == slurm.JobReport(state=None)
    run = submitted(hold=None)
    monkeypatch.setenv("PATH", str(cluster.folder))
    assert slurm.look(job_of(run)) is None
    assert read_state(run) == ("queued", f"submitted as Slurm job {job_of(run)}")


def test_what_sbatch_objects_to_is_shown(cluster: Cluster, submitted: Callable[..., RunDirectory]) -> None:
    with pytest.raises(RunError, match=r"(?i)invalid partition"):
        submitted(partition="nosuch")


def test_how_a_job_ended_is_said_in_words() -> None:
    line = "JobId=4 JobName=x y JobState=TIMEOUT Reason=TimeLimit Dependency=(null) Requeue=1 Restarts=2 ExitCode=0:1"
    report = slurm.parse_job(line)
    assert report == slurm.JobReport(state="TIMEOUT", reason="TimeLimit", restarts=2)
    assert slurm.ending_words(4, report) == "its Slurm job 4 was ended at its time limit"
    assert slurm.ending_words(4, slurm.JobReport(state=None)) == "Slurm does not know its job 4 any more"
    assert slurm.parse_job("slurm_load_jobs error") is None


def test_without_slurm_nothing_is_submitted(new_run: NewRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_run(spec=small_spec(tmp_path))
    write_script(run, "small", {})
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match="sbatch is not here"):
        start(run)


def test_a_stop_waits_for_the_supervisor_of_a_job_that_has_just_begun(
    new_run: NewRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked before the supervisor looks would never be read."""
    run = new_run(spec=small_spec(tmp_path))
    write_job(run, 9_999_998, submitted=True)  # none that another test has asked for
    monkeypatch.setenv("PATH", str(tmp_path))  # Slurm cannot be asked
    monkeypatch.setattr(control, "cancel", lambda run, job: None)
    with Journal(run.events_of("supervisor")) as journal:
        journal.write(State(state="queued"))
        begins = threading.Timer(0.5, journal.write, [State(state="starting")])
        begins.start()
        command = control.request(run, "stop")
        begins.join()
    assert states_of(run) == ["queued", "starting"]
    assert command.time >= events_of(run, "supervisor")[-1].time


@pytest.mark.skipif(not can_unshare(), reason="a process here may not have mounts of its own (unshare --mount)")
def test_a_node_that_lacks_the_folder_of_the_run_is_named(
    cluster: Cluster, submitted: Callable[..., RunDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINDECK_HOME", str(cluster.unshared / "home"))
    run = submitted(nodes="2")
    deadline = time.monotonic() + DEADLINE_SECONDS
    while read_state(run)[0] != "failed" and time.monotonic() < deadline:
        time.sleep(0.05)
    failure = next(event for event in events_of(run, "supervisor") if isinstance(event, Failure))
    assert f"node2 has no folder {run.path}" in failure.message
    assert "node1" not in failure.message
    assert not events_of(run, "data"), "nothing was begun"
