"""What happens now and then in a training: evaluations and samples. None of it counts as trained time."""

from __future__ import annotations

import itertools
import time

import torch

from engine.contract.errors import TraindeckError
from engine.contract.events import Sample, Validation
from engine.data.batches import validation_batches
from engine.training.devices import synchronise
from engine.training.scoring import Scores, bytes_per_token, evaluating
from engine.training.session import Session
from engine.training.together import writer_of
from engine.training.writing import write_text

EVALUATION_BATCH = 8
"""Sequences of what ``evaluation.max_batches`` counts: what is scored must not depend on the layout."""


def evaluate(session: Session) -> None:
    """Score the held-out text, each rank every so many of its batches; once per step at most.

    A request to stop does not wait for it: there is no score then.
    """
    if session.validated_step == session.step:
        return
    synchronise(session.device)
    with session.clock.aside():
        begin = time.perf_counter()
        scores = _score(session)
        seconds = time.perf_counter() - begin
    if scores is None:
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


def _score(session: Session) -> Scores | None:
    """Scores of the held-out text by all ranks together; None where a request to stop cut it short.

    Every rank scores in every round, for the others may need its shards: where there is no batch left for it, one whose
    score does not count.
    """
    spec, layout, data = session.inputs.spec, session.inputs.layout, session.inputs.data
    count = spec.evaluation.max_batches
    batches = validation_batches(
        data.validation,
        spec.data.sequence_length,
        layout.micro_batch,
        None if count is None else count * EVALUATION_BATCH,
    )
    data_rank = 0 if session.mesh is None else session.mesh.data_rank
    nats, tokens = torch.zeros((), dtype=torch.float64), 0
    with evaluating(session.network.parts):
        while group := list(itertools.islice(batches, layout.data_ranks)):
            if session.ranks.highest([session.control.stop_is_asked()])[0]:
                return None
            is_mine = data_rank < len(group)
            sums = session.network.score(*session.batches.split(group[data_rank if is_mine else 0]))
            nats += sums[1].cpu() if is_mine else 0.0
            tokens += sum(len(batch) for batch in group) * spec.data.sequence_length
    (total,) = session.ranks.total([float(nats)])
    return Scores.of(total, tokens, bytes_per_token(data))


def write_sample(session: Session) -> None:
    """Let the model write some text, once per step at most. One that cannot be written stops nothing."""
    spec, evaluation = session.inputs.spec, session.inputs.spec.evaluation
    if evaluation.sample_tokens == 0 or session.sampled_step == session.step:
        return
    session.sampled_step = session.step
    writer = writer_of(session)
    if writer is None:
        return  # this rank is not needed for it
    synchronise(session.device)
    with session.clock.aside():
        try:
            with evaluating(session.network.parts):
                text = write_text(
                    writer,
                    session.device,
                    session.inputs.data,
                    evaluation.prompt,
                    new_tokens=evaluation.sample_tokens,
                    temperature=evaluation.temperature,
                    top_k=evaluation.top_k,
                    seed=spec.seed,
                )
        except TraindeckError as error:
            session.reporter.notice(f"no sample: {error.title}: {error.message}")
            return
    if session.ranks.rank == 0:
        session.reporter.emit(Sample(prompt=evaluation.prompt, text=text))
