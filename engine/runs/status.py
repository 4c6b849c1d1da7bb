"""How a run stands, read from its directory alone, and fast even where a million steps were logged."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from engine.contract.errors import RunError, nearest
from engine.contract.events import DevicesFound, Telemetry
from engine.contract.layout import Layout
from engine.contract.machine import Device, DeviceSample
from engine.contract.plan import read_plan
from engine.contract.rundir import RUN_ID, RunDirectory
from engine.contract.states import ENDED, LIVE, RunStateName
from engine.runs.home import runs_folder
from engine.runs.measured import read_measured
from engine.runs.pace import eta_seconds, recent_speed
from engine.runs.rare import forget
from engine.runs.scan import backwards, only
from engine.runs.slurmjob import job_file, read_job, report_of
from engine.runs.state import read_info, read_state

__all__ = ["RunStatus", "find_run", "list_runs", "read_devices", "read_state", "read_status"]


class RunStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What ``traindeck status --json`` prints. Unknown is None."""

    run: str
    """Its id."""
    name: str
    created: float
    directory: str
    state: RunStateName
    reason: str | None
    step: int | None = None
    max_steps: int | None = None
    tokens: int | None = None
    max_tokens: int | None = None
    train_loss: float | None = None
    validation_loss: float | None = None
    validation_perplexity: float | None = None
    best_validation_loss: float | None = None
    tokens_per_second: float | None = None
    elapsed_seconds: float | None = None
    """Since training began, with evaluations and checkpoints; pauses and the preparation of the data not counted."""
    eta_seconds: float | None = None
    """Until the budget is used up, at the present pace; None unless it is training."""
    layout: Layout | None = None
    devices: tuple[Device, ...] = ()
    """What the run uses; readings only while it is live."""
    slurm_job: int | None = None
    """Id of its newest Slurm job; None for a run without one."""
    slurm_state: str | None = None
    """What Slurm calls the state of that job; None where it was not asked (the run has ended) or does not know."""


def read_status(run: RunDirectory) -> RunStatus:
    """Everything about a run at this moment. Raises RunError for a directory that is no run or cannot be read."""
    try:
        return _read(run)
    except (OSError, ValueError) as error:
        raise RunError("The run cannot be read", str(error), "Its folder is damaged, or not yours to read.") from error


def _read(run: RunDirectory) -> RunStatus:
    info = read_info(run)
    plan = read_plan(run)
    state, reason = read_state(run, info)
    measured = read_measured(run)
    best = [event.loss for event in measured.validations if event.loss is not None]
    last = measured.validations[-1] if measured.validations else None
    started, train = measured.started, measured.train
    limits = started or (plan.budget if plan else None)
    job = read_job(run)
    report = report_of(job.job) if job is not None and state in LIVE else None
    return RunStatus(
        run=info.id,
        name=info.name,
        created=info.created,
        directory=str(run.path),
        state=state,
        reason=reason,
        step=measured.step,
        max_steps=limits.max_steps if limits else None,
        tokens=None if train is None else train.tokens,
        max_tokens=limits.max_tokens if limits else None,
        train_loss=None if train is None else train.loss,
        validation_loss=None if last is None else last.loss,
        validation_perplexity=None if last is None else last.perplexity,
        best_validation_loss=min(best) if best else None,
        tokens_per_second=recent_speed(measured.logged),
        elapsed_seconds=None if train is None else train.elapsed_seconds,
        eta_seconds=eta_seconds(started, measured.step, measured.logged) if state == "running" else None,
        layout=None if plan is None else plan.layout,
        devices=read_devices(run, live=state in LIVE),
        slurm_job=None if job is None else job.job,
        slurm_state=None if report is None else report.state,
    )


def read_devices(run: RunDirectory, *, live: bool) -> tuple[Device, ...]:
    """The devices of a run with their newest readings (none unless ``live``), of all its hosts."""
    devices: list[Device] = []
    for path in sorted(run.telemetry.glob("*.jsonl")):
        found = next((event for event in only(path, "devices") if isinstance(event, DevicesFound)), None)
        if found is None:
            continue
        newest = next((event for event in backwards(path) if isinstance(event, Telemetry)), None) if live else None
        samples = {(sample.kind, sample.index): sample for sample in newest.samples} if newest else {}
        devices += [_merged(device, samples.get((device.kind, device.index))) for device in found.devices]
    return tuple(devices)


def _merged(device: Device, sample: DeviceSample | None) -> Device:
    fields = [field for field in DeviceSample.__struct_fields__ if field not in {"index", "kind", "problem"}]
    readings = {field: None if sample is None else getattr(sample, field) for field in fields}
    problem = device.problem if sample is None else sample.problem
    return msgspec.structs.replace(device, **readings, problem=problem)


def list_runs() -> list[RunStatus]:
    """All runs of this home, the newest first: every directory that is a run, whoever put it there."""
    found = []
    with os.scandir(runs_folder()) as entries:
        for entry in entries:
            run = RunDirectory(Path(entry.path))
            if not entry.name.startswith(".") and run.is_run() and (status := _listed(run)) is not None:
                found.append(status)
    return sorted(found, key=lambda status: (status.created, status.run), reverse=True)


_ended: dict[Path, tuple[tuple[int, ...], RunStatus]] = {}
"""Status of runs that have ended with the marks of their event files: a list that is looked at again and again
reads only what changed."""


def _listed(run: RunDirectory) -> RunStatus | None:
    """The status of a run, also of a damaged one; None for one that is being deleted."""
    marks = _marks(run)
    known = _ended.get(run.path)
    if known is not None and known[0] == marks:
        return known[1]
    try:
        status = read_status(run)
    except RunError as error:
        if not run.is_run():
            return None
        reason = f"{error.title}: {error.message}"
        status = RunStatus(
            run=run.id, name=run.id, created=marks[0] / 1e9, directory=str(run.path), state="lost", reason=reason
        )
    if status.state in ENDED:
        _ended[run.path] = (marks, status)
        for source in ("supervisor", "rank0"):
            forget(run.events_of(source))
    return status


def _marks(run: RunDirectory) -> tuple[int, ...]:
    marks: list[int] = []
    for path in (run.info, run.supervisor, job_file(run), run.events_of("supervisor"), run.events_of("rank0")):
        try:
            stat = path.stat()
        except OSError:  # missing, or in a folder that is none
            marks += (0, 0)
        else:
            marks += (stat.st_mtime_ns, stat.st_size)
    return tuple(marks)


def find_run(words: str) -> RunDirectory:
    """The run that a person means: ``latest``, an id, a path, the beginning of one id only, or a name.

    Of several runs with one name it is the newest. Raises RunError if there is none, or the beginning fits several.
    """
    path = Path(words).expanduser()
    if os.sep in words or words in {".", ".."}:
        run = RunDirectory(path.resolve())
        read_info(run)
        return run
    folder = runs_folder()
    if RUN_ID.fullmatch(words) and RunDirectory(folder / words).is_run():
        return RunDirectory(folder / words)
    infos = sorted(_infos(folder), reverse=True)
    if words == "latest" and infos:
        return RunDirectory(infos[0][2])
    if named := [run for _, name, run in infos if name == words]:
        return RunDirectory(named[0])
    begun = [run for _, _, run in infos if words and run.name.startswith(words)]
    if len(begun) == 1:
        return RunDirectory(begun[0])
    if begun:
        some = ", ".join(run.name for run in begun[:5])
        raise RunError("Several runs fit", f"{len(begun)} ids begin with {words!r}: {some}", "Give more of the id.")
    if not infos:
        raise RunError("There is no run yet", "", "Start one: traindeck demo")
    hint = nearest(words, [run.name for _, _, run in infos[:200]]) if len(infos) > 1 else ""
    raise RunError("There is no such run", repr(words), hint if hint.startswith("did") else "See: traindeck runs")


def _infos(folder: Path) -> list[tuple[float, str, Path]]:
    """When created, name and path of all runs that can be read."""
    found = []
    for path in folder.iterdir():
        run = RunDirectory(path)
        if not path.name.startswith(".") and run.is_run():
            try:
                info = read_info(run)
            except RunError:
                continue  # a damaged one is listed as such, and found by its id
            found.append((info.created, info.name, path))
    return found
