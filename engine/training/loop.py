"""The training, as one can read it from top to bottom."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.contract.errors import CheckpointError
from engine.contract.events import Ended, Train
from engine.training.control import Act
from engine.training.failure import TrainingError
from engine.training.milestones import evaluate, write_sample
from engine.training.optimiser import set_learning_rate
from engine.training.pausing import pause
from engine.training.saving import begin_saving, save, tell_saved
from engine.training.schedule import learning_rate
from engine.training.session import Session


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one update measured, still on the device."""

    nats: Tensor
    """Cross-entropy summed over this rank's tokens; 0 where another rank counts them."""
    grad_norm: Tensor | None
    """Of all gradients, before clipping; None where nothing asked for it."""
    rate: float
    data_seconds: float


def train(session: Session) -> str:
    """Everything from the first evaluation to the last checkpoint; the reason of the end, as ``Ended`` names it."""
    session.tell_state("running")
    if session.step == 0:
        evaluate(session)
        write_sample(session)
    try:
        reason = session.limit_reached() or run_steps(session)
    except TrainingError:
        tell_saved(session, wait=True)  # a checkpoint that was begun is from before what went wrong
        raise
    if reason != "stopped":
        evaluate(session)
        write_sample(session)
    if not save(session):
        raise CheckpointError(
            "The trained model could not be saved",
            f"training ended at step {session.step} ({reason}), and its checkpoint was not written; the log says why",
            "Make room and resume: training goes on from the checkpoint before",
        )
    session.control.refuse_rest()
    session.reporter.emit(Ended(reason=reason, tokens=session.tokens, elapsed_seconds=session.clock.elapsed()))
    return reason


def run_steps(session: Session) -> str:
    """Update after update until a limit is reached or someone stops it."""
    spec = session.inputs.spec
    data_seconds = 0.0
    session.clock.interval()
    while True:
        result = train_step(session)
        session.advance()
        data_seconds += result.data_seconds
        decision = session.control.decide(session.clock.elapsed())
        session.elapsed_seconds = decision.elapsed_seconds
        limit = session.limit_reached()
        ends = limit is not None or decision.act is Act.STOP
        if ends or session.step % spec.log_every_steps == 0:
            report(session, result, data_seconds)
            data_seconds = 0.0
        tell_saved(session)
        if not ends and is_due(spec.evaluation.every_steps, session.step):
            evaluate(session)
        if not ends and is_due(spec.checkpoint.every_steps, session.step):
            begin_saving(session, validated=spec.checkpoint.keep_best)
            write_sample(session)
        match decision.act:
            case Act.STOP:
                session.tell_state("stopping", decision.reason)
                session.control.done(decision, saved=save(session))
                return "stopped"
            case Act.CHECKPOINT:
                begin_saving(session, decision=decision)
                write_sample(session)
            case Act.PAUSE:
                if not pause(session, decision):
                    return "stopped"
        if limit is not None:
            return limit


def train_step(session: Session) -> StepResult:
    """One update from ``accumulation`` micro-batches on each rank."""
    optim, batches = session.inputs.spec.optim, session.batches
    torch.manual_seed(step_seed(session.inputs.spec.seed, session.step, session.ranks.rank))
    rate = learning_rate(
        optim,
        session.step,
        total_steps=session.budget.total_steps,
        time_share=session.budget.time_share(session.elapsed_seconds),
    )
    set_learning_rate(session.optimiser, rate)
    before, scaler = batches.seconds, session.scaler
    # Filled on the device: a copy from the host would wait until the device has done the step before.
    scale = torch.full((), session.gradient_scale, device=session.device)
    sums = session.network.backward(batches.step(session.samples), scale if scaler is None else scaler.scale(scale))
    session.gradients.settle()
    if scaler is not None:
        scaler.unscale_(session.optimiser)
    grad_norm = _clip(session)
    if scaler is None:
        session.optimiser.step()
    else:  # leaves the step out where a gradient overflowed
        scaler.step(session.optimiser)
        scaler.update()
    session.optimiser.zero_grad(set_to_none=not session.network.keeps_gradients)
    return StepResult(nats=sums[1], grad_norm=grad_norm, rate=rate, data_seconds=batches.seconds - before)


def _clip(session: Session) -> Tensor | None:
    """The norm of all gradients, and those scaled down if it is above the limit."""
    spec = session.inputs.spec
    if spec.optim.clip_norm is None and (session.step + 1) % spec.log_every_steps:
        return None
    norm = session.gradients.norm()
    if spec.optim.clip_norm is not None:
        session.gradients.clip(norm, spec.optim.clip_norm)
    return norm


def report(session: Session, result: StepResult, data_seconds: float) -> None:
    """Read the loss from the device, average it over the ranks, and tell how the interval went."""
    loss = session.ranks.total([float(result.nats)])[0] / session.tokens_per_step
    grad_norm = None if result.grad_norm is None else float(result.grad_norm)
    seconds = session.clock.interval()
    steps = session.step - session.logged_step
    session.logged_step = session.step
    session.reporter.emit(
        Train(
            loss=loss,
            lr=result.rate,
            grad_norm=grad_norm,
            tokens=session.tokens,
            samples=session.samples,
            tokens_per_second=steps * session.tokens_per_step / seconds,
            step_seconds=seconds / steps,
            elapsed_seconds=session.elapsed_seconds,
            data_wait_seconds=data_seconds / steps,
        )
    )
    if problem := session.watch.look(loss, session.weights_are_finite):
        session.reporter.notice(problem, "error")


def is_due(every: int | None, step: int) -> bool:
    """Whether what happens ``every`` so many steps happens after ``step``."""
    return every is not None and step % every == 0


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of everything random in one update on one rank (dropout).

    Being a function of these three alone, it makes a resumed run draw what the uninterrupted one draws.
    """
    digest = hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
