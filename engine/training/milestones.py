"""What happens now and then in a training: evaluations, samples, checkpoints. None of it counts as trained time."""

from __future__ import annotations

import itertools
import time

from engine.contract.errors import CheckpointError, TraindeckError
from engine.contract.events import Checkpoint, CheckpointRemoved, Sample, Validation
from engine.data.batches import validation_batches
from engine.training.checkpoint import read_manifest, save_checkpoint
from engine.training.devices import synchronise
from engine.training.health import weights_are_finite
from engine.training.retention import best_checkpoint, remove_checkpoint, superfluous
from engine.training.scoring import Scores, bytes_per_token, sum_of_nats
from engine.training.session import Session
from engine.training.writing import write_text


def evaluate(session: Session) -> None:
    """Score the held-out text, each rank every so many of its batches; once per step at most.

    A request to stop does not wait for it: there is no score then.
    """
    if session.validated_step == session.step:
        return
    spec, layout, data = session.inputs.spec, session.inputs.layout, session.inputs.data
    synchronise(session.device)
    with session.clock.aside():
        begin = time.perf_counter()
        batches = validation_batches(
            data.validation, spec.data.sequence_length, layout.micro_batch, spec.evaluation.max_batches
        )
        mine = itertools.islice(batches, session.ranks.rank, None, session.ranks.size)
        nats, tokens = sum_of_nats(
            session.model, mine, session.device, session.fabric.autocast, session.control.stop_is_asked
        )
        nats, count, cut_short = session.ranks.total([nats, tokens, session.control.stop_is_asked()])
        scores = Scores.of(nats, int(count), bytes_per_token(data))
        seconds = time.perf_counter() - begin
    if cut_short:
        return
    session.validated_step, session.validation_loss = session.step, scores.loss
    session.reporter.emit(
        Validation(
            loss=scores.loss,
            perplexity=scores.perplexity,
            bits_per_byte=scores.bits_per_byte,
            tokens=scores.tokens,
            seconds=seconds,
        )
    )


def write_sample(session: Session) -> None:
    """Let rank 0 write some text, once per step at most. One that cannot be written stops nothing."""
    spec, evaluation = session.inputs.spec, session.inputs.spec.evaluation
    if session.ranks.rank != 0 or evaluation.sample_tokens == 0 or session.sampled_step == session.step:
        return
    session.sampled_step = session.step
    synchronise(session.device)
    with session.clock.aside():
        try:
            with session.fabric.autocast():
                text = write_text(
                    session.model,
                    session.inputs.data,
                    evaluation.prompt,
                    new_tokens=evaluation.sample_tokens,
                    temperature=evaluation.temperature,
                    top_k=evaluation.top_k,
                    context=spec.data.sequence_length,
                    seed=spec.seed,
                )
        except TraindeckError as error:
            session.reporter.notice(f"no sample: {error.title}: {error.message}")
            return
    session.reporter.emit(Sample(prompt=evaluation.prompt, text=text))


def checkpoint(session: Session, *, validated: bool = False) -> bool:
    """Save the training, once per step at most; ``validated`` scores it first, so that it can be the best.

    What cannot be written, or is not worth it, is told and stops nothing: the earlier checkpoints are kept.
    Returns on all ranks whether this step is saved; where it is not, the next call tries again.
    """
    if session.saved_step == session.step:
        return True
    if validated:
        evaluate(session)
    synchronise(session.device)
    with session.clock.aside():
        is_saved = session.ranks.rank == 0 and _save(session)
        (agreed,) = session.ranks.highest([is_saved])  # nobody goes on, or ends, before it is written
    if agreed:
        session.saved_step = session.step
    return bool(agreed)


def _save(session: Session) -> bool:
    run = session.inputs.run
    if not weights_are_finite(session.model):
        session.reporter.notice("no checkpoint: the weights are not finite; earlier ones are kept", "error")
        return False
    begin = time.perf_counter()
    is_validated = session.validated_step == session.step
    try:
        folder = save_checkpoint(
            run,
            session.model,
            session.plain_optimiser,
            session.content,
            session.position,
            session.validation_loss if is_validated else None,
        )
        manifest = read_manifest(folder)
    except CheckpointError as error:
        session.reporter.notice(f"{error.title}: {error.message}. {error.hint}", "error")
        return False
    best = best_checkpoint(run)
    session.reporter.emit(
        Checkpoint(
            name=folder.name,
            bytes=sum(file.bytes for file in manifest.files.values()),
            seconds=time.perf_counter() - begin,
            best=best is not None and best[0] == folder,
        )
    )
    _remove_superfluous(session)
    return True


def _remove_superfluous(session: Session) -> None:
    """Delete the checkpoints that are not to be kept; one that cannot be deleted is told and stays."""
    for folder in superfluous(session.inputs.run, session.inputs.spec.checkpoint):
        try:
            remove_checkpoint(folder)
        except OSError as error:
            session.reporter.notice(f"{folder.name} could not be deleted: {error}")
        else:
            session.reporter.emit(CheckpointRemoved(name=folder.name))
