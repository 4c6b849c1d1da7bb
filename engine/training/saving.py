"""Checkpoints of a session: begun between two steps, written beside the next ones, told of when they are on disk.

Every rank calls these at the same steps. What the ranks do next goes by ``begun_step`` and, after a wait, by
``saved_step``: these are the same on all of them. When a result is noticed beside the training is not, and so only the
telling goes by it.
"""

from __future__ import annotations

from engine.contract.events import Checkpoint, CheckpointRemoved
from engine.training.checkpointer import Failed, Saved
from engine.training.control import Decision
from engine.training.devices import synchronise
from engine.training.milestones import evaluate
from engine.training.retention import best_checkpoint, remove_checkpoint, superfluous
from engine.training.session import Session


def save(session: Session) -> bool:
    """Save this step and wait until it is on disk; whether it is, on all ranks.

    What cannot be written, or is not worth it, is told and stops nothing: the earlier checkpoints are kept. Where this
    step's checkpoint has failed before, it is tried again.
    """
    tell_saved(session, wait=True)
    if session.saved_step == session.step:
        return True
    session.begun_step = None
    begin_saving(session)
    tell_saved(session, wait=True)
    return session.saved_step == session.step


def begin_saving(session: Session, *, validated: bool = False, decision: Decision | None = None) -> None:
    """Begin to save this step, once; training may go on when this returns.

    ``validated`` scores it first, so that it can be the best. The request behind ``decision`` is acknowledged when the
    checkpoint is on disk, or has failed.
    """
    is_begun = session.begun_step == session.step
    if not is_begun:
        tell_saved(session, wait=True)  # of the one before, for as long as it takes
        if validated:
            evaluate(session)
        is_begun = _begin(session)
    if decision is None:
        return
    if is_begun and session.finished_step != session.step:
        session.awaiting.append(decision)
    else:
        session.control.done(decision, saved=session.saved_step == session.step)


def tell_saved(session: Session, *, wait: bool = False) -> None:
    """Tell of the checkpoint that was begun if it is finished by now; with ``wait``, when it is."""
    if wait:
        with session.clock.aside():
            results = session.checkpointer.wait()
    else:
        results = session.checkpointer.poll()
    for result in results:
        session.finished_step = result.step
        if isinstance(result, Saved):
            session.saved_step = result.step
        if session.ranks.rank == 0:
            _tell_one(session, result)
        for decision in session.awaiting:
            session.control.done(decision, saved=isinstance(result, Saved))
        session.awaiting = []


def _begin(session: Session) -> bool:
    """Whether the weights are worth it, on any rank, and then are on their way to the disk."""
    if not session.weights_are_finite():
        if session.ranks.rank == 0:
            session.reporter.notice("no checkpoint: the weights are not finite; earlier ones are kept", "error")
        return False
    synchronise(session.device)
    with session.clock.aside():
        session.checkpointer.begin(
            session.network.parts,
            session.optimiser,
            session.content,
            session.position,
            session.validation_loss if session.validated_step == session.step else None,
        )
    session.begun_step = session.step
    return True


def _tell_one(session: Session, result: Saved | Failed) -> None:
    if isinstance(result, Failed):
        error = result.error
        session.reporter.notice(f"{error.title}: {error.message}. {error.hint}", "error")
        return
    run = session.inputs.run
    best = best_checkpoint(run)
    session.reporter.emit(
        Checkpoint(
            step=result.step,
            name=result.name,
            bytes=result.bytes or 0,
            seconds=result.seconds,
            best=best is not None and best[0].name == result.name,
        )
    )
    for folder in superfluous(run, session.inputs.spec.checkpoint):
        try:
            remove_checkpoint(folder)
        except OSError as error:
            session.reporter.notice(f"{folder.name} could not be deleted: {error}")
        else:
            session.reporter.emit(CheckpointRemoved(name=folder.name))
