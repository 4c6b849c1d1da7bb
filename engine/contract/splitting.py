"""Whether a network can be cut as a layout asks: what does not divide, and the nearest numbers that do."""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd, lcm

from engine.contract.errors import Problem
from engine.contract.layout import Layout
from engine.contract.limits import divisors
from engine.contract.pipelines import first_layers, torn_weights
from engine.contract.shape import ModelShape


def split_problems(shape: ModelShape, layout: Layout, sequence_length: int) -> list[Problem]:
    """All reasons why ``layout`` cannot cut ``shape`` and sequences of ``sequence_length``; empty if it can.

    Asked before a run with what the spec says, and by its workers once the vocabulary is known.
    """
    if shape.family == "lstm":
        return [*_recurrent(layout), *_loss_chunks(layout, sequence_length)]
    return [
        *_tensor(shape, layout),
        *_sequence(layout, sequence_length),
        *_stages(shape, layout),
        *_checkpointing(shape, layout),
        *_loss_chunks(layout, sequence_length),
    ]


def _recurrent(layout: Layout) -> Iterator[Problem]:
    """An LSTM is one chain of cells and of positions: only the batch and the storage of its weights can be cut."""
    for axis, what in (("pp", "stages"), ("cp", "parts of a sequence"), ("tp", "parts of its matrices")):
        size = getattr(layout, axis)
        if size > 1:
            yield Problem(
                field=f"layout.{axis}",
                message=f"an LSTM cannot be split into {what}: {axis} = {size}",
                hint="use dp_replicate and dp_shard, or a model of the gpt2 or llama family",
            )
    if layout.checkpointing != "none":
        yield Problem(
            field="layout.checkpointing",
            message="an LSTM has no layers whose activations could be computed again",
            hint='set layout.checkpointing = "none"',
        )


def _tensor(shape: ModelShape, layout: Layout) -> Iterator[Problem]:
    """Heads, the MLP's inner width and the vocabulary are shared out over tp."""
    tp = layout.tp
    if tp == 1:
        return
    fitting = divisors(gcd(shape.kv_heads, shape.heads), shape.kv_heads)
    if shape.kv_heads % tp or shape.heads % tp:
        grouped = shape.kv_heads != shape.heads and shape.kv_heads % tp
        count, what = (shape.kv_heads, "key/value heads") if grouped else (shape.heads, "attention heads")
        yield Problem(
            field="layout.tp",
            message=f"{count} {what} cannot be split over tp = {tp}",
            hint=f"choose tp from {_listed(fitting)}" if len(fitting) > 1 else "leave tp out",
        )
    if shape.feed_forward % tp:
        yield Problem(
            field="model.feed_forward",
            message=f"an MLP of width {shape.feed_forward} cannot be split over tp = {tp}",
            hint=f"set model.feed_forward = {_next(shape.feed_forward, tp)}, "
            f"or choose tp from {_listed(divisors(gcd(fitting[-1], shape.feed_forward), fitting[-1]))}",
        )
    if shape.vocabulary % tp:
        yield Problem(
            field="model.vocabulary",
            message=f"a vocabulary of {shape.vocabulary:,} cannot be split over tp = {tp}",
            hint=f"set model.vocabulary = {_next(shape.vocabulary, tp)}: rows without a token are padding",
        )


def _sequence(layout: Layout, length: int) -> Iterator[Problem]:
    """Sequence parallelism cuts each sequence over tp; context parallelism into 2 cp pieces, a rank having two of them.

    A causal attention's early positions cost less than its late ones, so each rank takes one piece from either end
    (Grattafiori et al. 2024, section 3.3.2).
    """
    pieces = lcm(2 * layout.cp, layout.cp * layout.tp) if layout.cp > 1 else layout.tp
    if length % pieces == 0:
        return
    sizes = [f"tp = {layout.tp}"] if layout.tp > 1 else []
    if layout.cp > 1:
        sizes.insert(0, f"cp = {layout.cp} (two pieces each)")
    lower = length - length % pieces
    yield Problem(
        field="data.sequence_length",
        message=f"{length} positions cannot be split over {' and '.join(sizes)}",
        hint=f"use {lower} or {lower + pieces}" if lower else f"use {pieces}",
    )


def _stages(shape: ModelShape, layout: Layout) -> Iterator[Problem]:
    stages = layout.stages
    if stages is None:
        return
    if len(stages) > shape.layers:
        yield Problem(
            field="layout.pp",
            message=f"{shape.layers} layers do not fill {len(stages)} pipeline stages",
            hint=f"use at most {shape.layers} stages in all",
        )
    elif sum(stages) != shape.layers:
        yield Problem(
            field="layout.stages",
            message=f"the stages have {sum(stages)} layers, and the model has {shape.layers}",
            hint="leave stages out",
        )
    elif torn := torn_weights(shape, stages):
        number = first_layers(stages).index(torn[0])
        yield Problem(
            field="model.layer_groups",
            message=f"layers {torn[0] - 1} and {torn[0]} share their weights, and lie in pipeline stages "
            f"{number - 1} and {number}",
            hint=_whole_groups(shape, len(stages)),
        )


def _whole_groups(shape: ModelShape, stages: int) -> str:
    if shape.weight_sets >= stages:
        return "leave layout.stages out: it then cuts between the groups"
    least = next((n for n in range(stages, shape.layers) if shape.layers % n == 0), shape.layers)
    fewer = f"use at most {shape.weight_sets} stages in all" if shape.weight_sets > 1 else "leave pp out"
    return f"{fewer}, or set model.layer_groups = {least}"


def _checkpointing(shape: ModelShape, layout: Layout) -> Iterator[Problem]:
    if layout.checkpoint_every > shape.layers:
        yield Problem(
            field="layout.checkpoint_every",
            message=f"every {layout.checkpoint_every}th of {shape.layers} layers is none",
            hint=f"use 1 to {shape.layers}",
        )


def _loss_chunks(layout: Layout, sequence_length: int) -> Iterator[Problem]:
    tokens = min(layout.micro_batches or (layout.micro_batch,)) * sequence_length // layout.cp
    if layout.loss_chunks > tokens:
        yield Problem(
            field="layout.loss_chunks",
            message=f"{tokens} tokens of a micro-batch do not fill {layout.loss_chunks} pieces",
            hint=f"use at most {max(1, tokens)}",
        )


def _next(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:16]))
