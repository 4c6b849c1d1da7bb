"""Another layout for a run that was trained under one: what may change, what follows from it, and the change itself.

The model, the data, the optimiser and the batch are the run's; how they lie over the devices is not. The former
``spec.toml`` and ``plan.json`` stay beside the new ones as ``spec.toml.<n>`` and ``plan.json.<n>``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import filelock
import msgspec

from engine.contract.aliases import expand_aliases
from engine.contract.check import check
from engine.contract.durable import DISK_FULL, write_durably
from engine.contract.errors import Problem, RunError, SpecError
from engine.contract.events import Notice
from engine.contract.journal import Journal
from engine.contract.layout import Layout, resolve_layout
from engine.contract.machine import Machine
from engine.contract.plan import PlanFile, read_plan
from engine.contract.rundir import RunDirectory
from engine.contract.source import STDLIB
from engine.contract.spec import BudgetSpec, LayoutSpec, RunSpec
from engine.contract.specfile import FIELDS, dump_spec, override_spec, read_spec
from engine.contract.states import ENDED
from engine.runs.slurmscript import has_script, job_of_this_process
from engine.runs.state import read_state

CHANGEABLE = tuple(name for name in FIELDS if name.startswith(("layout.", "budget.")))
"""What may change without a word; a batch that is asked for by name may change too."""
BATCH = "optim.batch_size"
OF_A_STRATEGY = (
    "pp", "dp_replicate", "dp_shard", "cp", "tp", "schedule", "virtual_stages", "stages", "micro_batches",
)  # fmt: skip
"""Fields of a layout that say how a strategy is carried out: another strategy begins without them."""
LOCK_SECONDS = 2.0
CHANGING_SECONDS = 45.0
"""How long another may take to change the layout and start the run under it, in seconds."""


class Relayout(msgspec.Struct, frozen=True, kw_only=True):
    """A run as it is to go on."""

    spec: RunSpec
    layout: Layout
    """That ``spec`` means on this machine."""
    former: RunSpec
    former_plan: PlanFile

    @property
    def message(self) -> str:
        """From what to what, in words."""
        was, now = self.former_plan, self.layout
        parts = [f"the layout changes from {_words(was.layout)} to {_words(now)}"] if was.layout != now else []
        if was.layout.batch_size != now.batch_size:
            parts.append(f"the batch from {was.layout.batch_size} to {now.batch_size} sequences")
        if self.former.budget != self.spec.budget:
            parts.append(f"the budget from {_budget(self.former.budget)} to {_budget(self.spec.budget)}")
        return ", ".join(parts) or "the layout stays as it is"


def read_former(run: RunDirectory) -> tuple[RunSpec, PlanFile]:
    """What a run was trained under. Raises SpecError or RunError where that cannot be read."""
    plan = read_plan(run)
    if plan is None:
        raise RunError(
            "The plan of the run cannot be read", f"{run.plan} is missing or damaged",
            f"Start a new run with the same spec: traindeck train {run.spec}",
        )  # fmt: skip
    return read_spec(run.spec), plan


def plan_relayout(run: RunDirectory, overrides: Sequence[str], machine: Machine) -> Relayout:
    """What ``overrides`` (``layout.tp=2``) make of a run on ``machine``; nothing is changed or started.

    Another strategy drops the sizes that the former one was given, unless they are given again. Micro-batch and
    accumulation follow from the batch where they are not given. Raises SpecError with all problems at once, and
    RunError for a run whose files cannot be read.
    """
    former, plan = read_former(run)
    given = set(_given(overrides))
    base = _without_what_follows(former, plan.layout, given, _strategy(former, given, overrides))
    refused = list(_refused(former, overrides, given))
    try:
        spec = override_spec(base, overrides)
    except SpecError as error:
        told = {problem.field for problem in refused}
        raise SpecError([*refused, *(it for it in error.problems if it.field not in told)], "the new layout") from None
    spec = _with_fitting_micro_batch(spec, machine, given)
    told = {problem.field for problem in refused}
    problems = [*refused, *(problem for problem in _problems(spec, machine) if problem.field not in told)]
    layout = resolve_layout(spec, machine)
    if problems or isinstance(layout, list):
        raise SpecError(problems or layout, "the new layout")  # type: ignore[arg-type]
    if layout.batch_size != plan.layout.batch_size and BATCH not in given:
        raise SpecError([_other_batch(plan.layout, layout)], "the new layout")
    return Relayout(spec=spec, layout=layout, former=former, former_plan=plan)


@contextmanager
def changing(run: RunDirectory) -> Iterator[None]:
    """Keep others from changing the layout until the run has started under this one: who starts it gets their own.

    Raises RunError where another is at it for longer than that takes, or where the directory cannot be written.
    """
    lock = filelock.FileLock(run.path / "relayout.lock", timeout=CHANGING_SECONDS, mode=0o600)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise _not_now(run) from None
    except OSError as error:
        raise _not_written(run, error) from None
    try:
        yield
    finally:
        lock.release()


def change_layout(run: RunDirectory, change: Relayout, estimate_json: dict[str, Any] | None = None) -> None:
    """Put ``change`` into the directory of an ended run, keeping what was there, and note it among its events.

    Raises RunError where the run has not ended, where it was changed since ``change`` was made, or where its
    directory cannot be written.
    """
    try:
        # Who holds this lock is the run's supervisor: none can start meanwhile, and its event file is ours.
        with filelock.FileLock(run.path / "supervisor.lock", timeout=LOCK_SECONDS, mode=0o600):
            if read_state(run)[0] not in ENDED:
                raise _not_now(run)
            spec, plan = read_former(run)
            if (spec, plan.layout) != (change.former, change.former_plan.layout):
                raise RunError(
                    "The layout was not changed", f"{run.id} was changed meanwhile, by someone else", "Ask again"
                )
            if change.spec != change.former or change.layout != change.former_plan.layout:
                _write(run, change, estimate_json)
    except filelock.Timeout:
        raise _not_now(run) from None
    except OSError as error:
        raise _not_written(run, error) from None


def require_changeable(run: RunDirectory) -> None:
    """Raise RunError unless ``run`` has ended, or is paused and can be ended without a loss.

    A run whose batch script is submitted from here is refused: what its job asks for would not be the new layout.
    """
    if has_script(run) and job_of_this_process() is None:
        raise RunError(
            "The layout of a run that Slurm places cannot be changed from outside",
            run.id,
            "Resume it inside an allocation (salloc), or submit a new run: traindeck train --slurm",
        )
    if read_state(run)[0] not in ENDED | {"paused"}:
        raise _not_now(run)


def _not_now(run: RunDirectory) -> RunError:
    state, _ = read_state(run)
    words = "whose processes are still there" if state in ENDED else f"that is {state}"
    return RunError(
        f"The layout of a run {words} cannot be changed", run.id, f"Stop it first: traindeck stop {run.id} --wait"
    )


def _not_written(run: RunDirectory, error: OSError) -> RunError:
    return RunError(
        "The layout was not changed",
        f"{run.path} cannot be written: {'the disk is full' if error.errno in DISK_FULL else error.strerror or error}",
        "Free some space there, or see who may write there.",
    )


def _write(run: RunDirectory, change: Relayout, estimate_json: dict[str, Any] | None) -> None:
    """The former files first, the plan last: it is what the next attempt goes by."""
    number = 1
    while run.path.joinpath(f"spec.toml.{number}").exists() or run.path.joinpath(f"plan.json.{number}").exists():
        number += 1
    for path in (run.spec, run.plan):
        write_durably(path.with_name(f"{path.name}.{number}"), path.read_bytes())
    spec = change.spec
    plan = PlanFile(
        layout=change.layout, budget=spec.budget, sequence_length=spec.data.sequence_length, estimate=estimate_json
    )
    write_durably(run.spec, dump_spec(spec).encode("utf-8"))
    write_durably(run.plan, msgspec.json.format(msgspec.json.encode(plan)))
    with Journal(run.events_of("supervisor")) as journal:
        journal.write(Notice(message=f"{change.message} (what was before is in spec.toml.{number})"))


# ---------------------------------------------------------------------- what may change, and what follows


def _given(overrides: Sequence[str]) -> Iterator[str]:
    """The fields that ``overrides`` name, by our own names."""
    for override in overrides:
        *parents, leaf = override.partition("=")[0].strip().split(".")
        nested: dict[str, Any] = {leaf: True}  # a switch of another trainer is told by being one
        for parent in reversed(parents):
            nested = {parent: nested}
        for table, inner in expand_aliases(nested, []).items():
            yield from (f"{table}.{name}" for name in inner) if isinstance(inner, dict) else (table,)


def _refused(former: RunSpec, overrides: Sequence[str], given: set[str]) -> Iterator[Problem]:
    """A problem for every field that is the run's own, unless it is set to what it is already."""
    for name in sorted(given & set(FIELDS) - {*CHANGEABLE, BATCH}):
        own = [override for override in overrides if set(_given([override])) == {name}]
        try:
            if override_spec(former, own) == former:
                continue
        except SpecError:
            pass  # unreadable on top: that is told as well
        yield Problem(
            field=name,
            message="belongs to the run: only its layout and its budget can change",
            hint="leave it out, or start a new run with it",
        )


def starting_point(former: RunSpec, layout: Layout, strategy: str) -> RunSpec:
    """What a run goes on from under ``strategy`` where nothing else is said: what :func:`plan_relayout` changes.

    Its batch is pinned, and what has to be found anew is left open.
    """
    point = _without_what_follows(former, layout, set(), strategy)
    return msgspec.structs.replace(point, layout=msgspec.structs.replace(point.layout, strategy=strategy))


def _without_what_follows(former: RunSpec, layout: Layout, given: set[str], strategy: str) -> RunSpec:
    """The run's spec with its batch pinned, and without what has to be found anew."""
    dropped = {"accumulation"}
    if "layout.micro_batch" in given:
        dropped.add("micro_batches")  # one says what the other does
    if "layout.micro_batches" in given:
        dropped.add("micro_batch")
    if strategy != former.layout.strategy:
        dropped |= {*OF_A_STRATEGY, *(["devices"] if strategy == "single" else [])}
    kept: dict[str, Any] = {name: None for name in dropped if f"layout.{name}" not in given}
    optim = former.optim
    if BATCH not in given:
        optim = msgspec.structs.replace(optim, batch_size=layout.batch_size)
    return msgspec.structs.replace(former, layout=msgspec.structs.replace(former.layout, **kept), optim=optim)


def _strategy(former: RunSpec, given: set[str], overrides: Sequence[str]) -> str:
    """The strategy that ``overrides`` ask for; the former one where they say nothing of it, or nothing readable."""
    if "layout.strategy" not in given:
        return former.layout.strategy
    named = [override for override in overrides if "layout.strategy" in _given([override])]
    try:
        return override_spec(former, named).layout.strategy
    except SpecError:
        return former.layout.strategy


def _with_fitting_micro_batch(spec: RunSpec, machine: Machine, given: set[str]) -> RunSpec:
    """The micro-batch of the former layout is kept where it divides the batch of a rank, else found anew.

    Micro-batches that differ are kept where there are as many data ranks as there were, and they make the batch.
    """
    if spec.layout.micro_batches is not None and "layout.micro_batches" not in given:
        layout = resolve_layout(spec, machine)
        if isinstance(layout, list) and any(problem.field == "layout.micro_batches" for problem in layout):
            return msgspec.structs.replace(spec, layout=msgspec.structs.replace(spec.layout, micro_batches=None))
    if "layout.micro_batch" in given or spec.layout.micro_batch is None:
        return spec
    layout = resolve_layout(spec, machine)
    if isinstance(layout, Layout) or {problem.field for problem in layout} != {"layout.micro_batch"}:
        return spec
    return msgspec.structs.replace(spec, layout=msgspec.structs.replace(spec.layout, micro_batch=None))


def _problems(spec: RunSpec, machine: Machine) -> list[Problem]:
    """What is wrong with the layout; the text is not looked at: it is prepared, and may have gone since."""
    data = msgspec.structs.replace(spec.data, source=STDLIB, format="auto")
    return _of_layout(check(msgspec.structs.replace(spec, data=data), machine))


def _of_layout(problems: Sequence[Problem]) -> list[Problem]:
    """Without those of the text, and without a remedy that the run would refuse: only its layout can give way."""
    return [
        problem
        if problem.field in {*CHANGEABLE, BATCH}
        else msgspec.structs.replace(problem, hint="it belongs to the run: choose another layout")
        for problem in problems
        if problem.field == "data.sequence_length" or not problem.field.startswith(("data.", "tokenizer.file"))
    ]


def _other_batch(before: Layout, after: Layout) -> Problem:
    return Problem(
        field=BATCH,
        message=f"the run trains {before.batch_size} sequences a step, and this layout {after.batch_size}",
        hint=f"leave micro-batch and accumulation out, or say it: {BATCH}={after.batch_size}",
    )


def _words(layout: Layout) -> str:
    axes = {"pp": layout.pp, "dp": layout.dp_replicate, "fsdp": layout.dp_shard, "cp": layout.cp, "tp": layout.tp}
    sizes = " x ".join(f"{name} {size}" for name, size in axes.items() if size > 1)
    return f"{layout.strategy} ({sizes})" if sizes else layout.strategy


def _budget(budget: BudgetSpec) -> str:
    limits = [(name, getattr(budget, name)) for name in BudgetSpec.__struct_fields__]
    return " and ".join(f"{name} {value:g}" for name, value in limits if value is not None) or "none"


assert set(OF_A_STRATEGY) <= set(LayoutSpec.__struct_fields__)
