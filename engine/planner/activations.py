"""Bytes that the forward pass keeps for the backward pass: per layer and micro-batch, and how many are kept at once.

Counted tensor by tensor through :class:`engine.model.decoder.Block` (the method of Korthikanti et al. 2022, section 4,
with the terms of our own networks), under tensor parallelism with sequence parallelism, context parallelism and
recomputation.
"""

from __future__ import annotations

from typing import NamedTuple

from engine.contract.layout import Layout
from engine.contract.shape import ModelShape

MIXED = frozenset({"bf16-mixed", "fp16-mixed", "fp8"})
"""Precisions with 16-bit products and 32-bit parameters. The 8-bit copies of fp8 live for one product only."""


class Kept(NamedTuple):
    """Bytes of one micro-batch on one rank."""

    layer: float
    """That a layer keeps."""
    recomputed: float
    """That a layer keeps which computes the rest again in the backward pass."""
    final: float
    """Of the final norm, and the input of the head."""
    again: float
    """That such a layer's forward pass, done again, adds."""
    transient: float
    """That a layer's backward pass adds at its worst."""
    stream: float
    """Of the hidden stream between two layers: what a pipeline passes on."""
    logits: float
    """Count of logits, not bytes: the loss needs several copies of them."""

    def repeated(self, layers: int, layout: Layout) -> float:
        """What the first of a stage's layers to go backward computes again; nothing if it kept all."""
        return self.again if layout.checkpointing != "none" and (layers - 1) % layout.checkpoint_every == 0 else 0.0

    def stage(self, layers: int, layout: Layout) -> float:
        """That a stage of so many layers keeps."""
        again = 0 if layout.checkpointing == "none" else -(-layers // layout.checkpoint_every)
        return again * self.recomputed + (layers - again) * self.layer


def copies_alone(layout: Layout) -> bool:
    """Whether each rank has a whole copy of the model and nothing else is split: torch's DDP."""
    return layout.world_size == layout.dp_replicate > 1


def wrapped(layout: Layout) -> bool:
    """Whether parameters are handed to each layer by FSDP2's machinery: shards, or copies of parts of the model."""
    return layout.data_ranks * layout.cp > 1 and not copies_alone(layout)


def kept_by(shape: ModelShape, layout: Layout, sequence_length: int, micro_batch: int) -> Kept:
    """What ``micro_batch`` sequences of ``sequence_length`` keep on one rank."""
    if shape.family == "lstm":
        return _lstm(shape, layout, micro_batch * sequence_length)
    return _decoder(shape, layout, sequence_length, micro_batch)


def in_flight(layout: Layout, pp: int) -> tuple[int, ...]:
    """Micro-batches that wait for their backward pass at the worst moment, for each stage of the ranks at ``pp``.

    GPipe keeps all, 1F1B as many as there are stages from here to the end (Narayanan et al. 2021); the interleaved ones
    what their warm-up brings in and one more, a split backward pass also what waits for its weights' gradients; the V
    fills both its stages there and back (Qi et al. 2023). As the schedules of ``torch.distributed.pipelining`` do it.
    """
    count, ranks, virtual = layout.accumulation, layout.pp, layout.virtual_stages
    match layout.schedule:
        case None:
            return (1,)
        case "gpipe":
            return (count,)
        case "1f1b":
            return (min(count, ranks - pp),)
        case "zero-bubble-v":
            return min(count, 2 * ranks - 1 - pp), min(count, pp + 1)
    of_a_round = count // max(1, count // ranks)
    behind = ranks - 1 - pp
    ahead = (virtual - 1) * of_a_round + (2 * behind if layout.schedule == "interleaved-1f1b" else behind + pp) + 1
    rounds, rest = divmod(min(ahead, count * virtual), of_a_round * virtual)
    waiting = (min(of_a_round, max(0, rest - number * of_a_round)) for number in range(virtual))
    return tuple(rounds * of_a_round + more for more in waiting)


def _decoder(shape: ModelShape, layout: Layout, sequence_length: int, micro_batch: int) -> Kept:
    tokens = micro_batch * sequence_length / layout.cp
    mixed, tp = layout.precision in MIXED, layout.tp
    # The stream and the norms stay in float32 under autocast; what linear layers read and write has 16 bits.
    stream = 2 if layout.precision == "bf16-true" else 4
    inner = 2 if mixed else stream
    hidden, heads, keys = shape.hidden, shape.heads * shape.head_size / tp, shape.kv_heads * shape.head_size / tp
    swiglu, wide = shape.mlp == "swiglu", shape.feed_forward / tp
    norm = (stream * hidden + (4 if shape.norm == "rmsnorm" else 8)) / tp
    if shape.norm == "rmsnorm" and layout.accelerator == "cpu" and (stream == 2 or (mixed and wrapped(layout))):
        # No fused kernel takes 16-bit weights there: autograd keeps the steps, in float32.
        norm += (8 if stream == 2 else 4) * hidden / tp
    # Each linear layer keeps the whole normed sequence, even where sequence parallelism gave each rank a part of it.
    readers = (3, 2 if swiglu else 1) if mixed else (1, 1)
    normed = inner * hidden * (readers[0] + readers[1])
    gathered = layout.cp if layout.accelerator == "cpu" else 1  # a ring passes keys and values on instead
    attention = inner * (2 * heads + 2 * keys * gathered) + 4 * shape.heads / tp
    mlp = inner * wide * (4 if swiglu else 2)
    scores = _score_bytes(shape, layout, inner) / tp * sequence_length
    # One byte of mask for each value that dropout may hide, behind attention and behind the MLP.
    masks = 2 * hidden / tp if shape.dropout else 0
    layer = 2 * norm + normed + attention + mlp + scores + masks
    transient = stream * hidden + inner * wide * (2 if swiglu else 1)
    # A stored score matrix is doubled while its softmax is differentiated.
    doubled = stream * hidden + 2 * inner * shape.heads / tp * sequence_length if scores else 0
    recomputed = stream * hidden / tp
    if layout.checkpointing == "selective":
        # The results of all products, of attention, and of the sums over tp.
        products = 2 * heads + 2 * keys + (2 if swiglu else 1) * wide
        recomputed += (
            inner * products + 4 * shape.heads / tp + 2 * inner * hidden + (2 * stream * hidden / tp if tp > 1 else 0)
        )
    return Kept(
        layer=tokens * layer,
        recomputed=tokens * min(recomputed, layer),
        final=tokens * (norm + inner * hidden + (stream * hidden if tp > 1 else 0)),
        again=tokens * (layer - min(recomputed, layer) + stream * hidden / tp),
        transient=tokens * max(transient, doubled),
        stream=tokens * stream * hidden / tp,
        logits=tokens * shape.vocabulary / tp,
    )


def _score_bytes(shape: ModelShape, layout: Layout, inner: int) -> int:
    """Bytes kept for each query and key where attention is the plain form; 0 where it is a fused kernel."""
    if layout.accelerator == "mps":
        return shape.heads * (inner + (inner + 1 if shape.dropout else 0))
    if layout.accelerator == "cpu" and shape.dropout:
        return shape.heads * (2 * inner + 1)
    return 0


def _lstm(shape: ModelShape, layout: Layout, tokens: int) -> Kept:
    """Input and output of each layer, and the workspace of oneDNN's LSTM: gates, cells and states at each position.

    The workspace was measured: 61 bytes per position and unit in float32, 43 under autocast, within 2 % for
    widths 128 to 700 and any batch. cuDNN's reserve is taken to be as large.
    """
    size = 4 if layout.precision == "fp32" else 2
    row = tokens * shape.hidden
    workspace = 61 if layout.precision == "fp32" else 43
    cell = 4 * shape.hidden * 2 * shape.hidden
    layer = float(row * (workspace + size))
    # The backward pass holds the gradients of the four gates, of input and output, and reordered weights.
    transient = row * size * 6.5 + 2 * size * cell
    return Kept(
        layer=layer, recomputed=layer, again=0.0, final=float(row * size), transient=transient,
        stream=float(row * size), logits=float(tokens * shape.vocabulary),
    )  # fmt: skip
