"""From the directory of a run to a session that is ready to train."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from engine.contract.errors import CheckpointError
from engine.contract.events import Started
from engine.data.batches import Batches
from engine.parallel.apply import NetworkBuilder
from engine.parallel.gradients import Gradients
from engine.parallel.precision import Precision
from engine.planner.shapes import flops_per_token, parameter_count
from engine.training.budget import Budget
from engine.training.checkpoint import find_sound, read_content
from engine.training.checkpointer import Checkpointer
from engine.training.clock import Clock
from engine.training.control import Control
from engine.training.devices import Ranks, device_name, make_fabric, mesh_of
from engine.training.inbox import Inbox
from engine.training.inputs import Inputs
from engine.training.optimiser import build_optimiser
from engine.training.reporter import Reporter
from engine.training.retention import clear_leftovers, set_aside
from engine.training.session import Session
from engine.training.stepbatches import StepBatches
from engine.training.stopflag import StopFlag


def open_session(inputs: Inputs, reporter: Reporter, flag: StopFlag | None, started: float) -> Session:
    """Network, optimiser and data on their device, at step 0; ``started`` is when this process began.

    Raises RunError where the machine is not what the layout needs.
    """
    spec, layout = inputs.spec, inputs.layout
    fabric = make_fabric(layout, inputs.shape)
    ranks, mesh = Ranks(fabric), mesh_of(fabric)
    precision = Precision.of(layout)
    network = NetworkBuilder(
        shape=inputs.shape,
        layout=layout,
        mesh=mesh,
        device=fabric.device,
        precision=precision,
        seed=spec.seed,
        sequence_length=spec.data.sequence_length,
        label_smoothing=spec.optim.label_smoothing,
        compiled=spec.layout.compile,
    ).build()
    optimiser = build_optimiser(network.parts, spec.optim, fabric.device, offload=layout.offload_optimizer)
    batches = StepBatches(
        Batches(inputs.data.train, spec.data.sequence_length, spec.seed),
        layout,
        0 if mesh is None else mesh.data_rank,
        fabric.device,
        None if mesh is None else mesh.positions(spec.data.sequence_length, fabric.device),
    )
    budget = Budget.of(
        spec.budget,
        batch_size=layout.batch_size,
        sequence_length=spec.data.sequence_length,
        samples_per_epoch=batches.samples_per_epoch,
    )
    inbox = Inbox(inputs.run, started) if ranks.rank == 0 else None
    return Session(
        inputs=inputs,
        fabric=fabric,
        ranks=ranks,
        mesh=mesh,
        network=network,
        gradients=Gradients(network.parts, mesh, inputs.shape.tied_embeddings),
        optimiser=optimiser,
        scaler=precision.scaler(fabric.device),
        batches=batches,
        budget=budget,
        reporter=reporter,
        control=Control(ranks, flag, inbox, reporter),
        clock=Clock(),
        checkpointer=Checkpointer(inputs.run),
    )


def resume(session: Session) -> str | None:
    """Continue from the newest checkpoint that verifies; its name, or None where there is none.

    Damaged ones are set aside with a notice. Raises CheckpointError for one of another model or optimiser, and
    where all are damaged.
    """
    step = _choose_checkpoint(session) if session.ranks.rank == 0 else -1
    (step,) = session.ranks.highest([step])
    if step < 0:
        return None
    folder = session.inputs.run.checkpoints / f"step-{step}"
    manifest = session.checkpointer.load(folder.name, session.network.parts, session.content, session.optimiser)
    session.step, session.samples, session.tokens = manifest.step, manifest.samples, manifest.tokens
    session.elapsed_seconds = manifest.elapsed_seconds
    session.clock = Clock(manifest.elapsed_seconds)
    session.logged_step = session.reporter.step = manifest.step
    session.begun_step = session.saved_step = session.finished_step = manifest.step
    if session.scaler is not None and manifest.loss_scale is not None:
        known = {"scale": manifest.loss_scale, "_growth_tracker": manifest.loss_scale_age or 0}
        session.scaler.load_state_dict(session.scaler.state_dict() | known)
    if manifest.validation_loss is not None:
        session.validated_step, session.validation_loss = manifest.step, manifest.validation_loss
    if session.ranks.rank == 0 and read_content(folder).data_fingerprint != session.content.data_fingerprint:
        session.reporter.notice("the training data is not the one that the checkpoint was trained on")
    return folder.name


def _choose_checkpoint(session: Session) -> int:
    """The step of the newest sound checkpoint; -1 where there never was one.

    Raises CheckpointError where all are damaged: the work in them is not thrown away without being asked.
    """
    run = session.inputs.run
    clear_leftovers(run)
    found, problems = find_sound(run)
    if found is None:
        if problems:
            told = "; ".join(f"{problem.title}: {problem.message}" for _, problem in problems)
            raise CheckpointError(
                "No checkpoint of this run can be used",
                told,
                f"Put back an undamaged copy, or start anew: traindeck train {run.spec}",
            )
        return -1
    for folder, problem in problems:
        place = set_aside(folder)
        message = f"{problem.title}: {problem.message}; kept as {place.name}, continuing from {found.name}"
        session.reporter.notice(message, "error")
    return int(found.name.removeprefix("step-"))


def tell_start(session: Session, resumed_from: str | None) -> None:
    """The first event of a training."""
    spec, layout, shape = session.inputs.spec, session.inputs.layout, session.inputs.shape
    name = device_name(session.device)
    session.reporter.step = session.step
    session.reporter.emit(
        Started(
            parameters=parameter_count(shape),
            world_size=session.ranks.size,
            accelerator=layout.accelerator,
            device_names=(name,) * layout.world_size,
            batch_size=layout.batch_size,
            micro_batch=layout.micro_batch,
            accumulation=layout.accumulation,
            sequence_length=spec.data.sequence_length,
            precision=layout.precision,
            optimiser=spec.optim.name,
            max_steps=session.budget.total_steps,
            max_tokens=spec.budget.max_tokens,
            max_seconds=spec.budget.max_seconds,
            flops_per_token=flops_per_token(shape, spec.data.sequence_length),
            versions=_versions(),
            resumed_from=resumed_from,
        )
    )


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("traindeck", "torch", "lightning"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue  # run from a source tree that is not installed
    return versions
