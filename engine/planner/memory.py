"""How much memory one device needs to train a shape under a layout: the maximum over instants, not a sum.

What is alive is followed through one step: the forward pass keeps activations, the loss needs several copies
of the logits, the backward pass trades activations for gradients, and the optimiser needs all states. The
part that is alive in the fullest of these instants is the answer (cost model of *Reducing Activation
Recomputation*, Korthikanti et al. 2022, section 4, with the terms of our own networks).

Assumed:

- Attention does not store its scores (flash or memory-efficient kernels), except with dropout on the CPU and on
  Apple GPUs, where torch has only the plain form for training.
- A norm keeps its input and one or two numbers per token, as ours and torch's fused ones do.
- Autocast to bfloat16 keeps the weights in float32, makes one bfloat16 copy of each matrix that lives from the
  forward to the backward pass, and one of the normed stream for each linear layer that reads it.
- The optimiser is fused and needs no temporaries; DDP's gradients are views of its buckets, so that they
  need no second copy but are never released.
- ``OVERHEADS`` holds what processes, contexts and communicators take, from published values; the CPU's was measured.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from engine.contract.layout import Layout
from engine.contract.shape import ModelShape
from engine.contract.spec import OptimSpec
from engine.planner.shapes import ParameterBreakdown, parameter_breakdown

MIB = 2**20


class Overhead(NamedTuple):
    """What a worker takes besides its tensors."""

    fixed_bytes: int
    """Libraries, context, workspaces."""
    group_bytes: int
    """Communicators and their buffers, with more than one worker."""
    reserved_share: float
    """The allocator's reserve over what is in use."""


OVERHEADS: dict[str, Overhead] = {
    "cpu": Overhead(fixed_bytes=400 * MIB, group_bytes=20 * MIB, reserved_share=0.3),
    "cuda": Overhead(fixed_bytes=550 * MIB, group_bytes=250 * MIB, reserved_share=0.08),
    "mps": Overhead(fixed_bytes=500 * MIB, group_bytes=0, reserved_share=0.08),
}
"""By accelerator. CPU: fits within 10 % the resident memory of six trainings with the heap that workers are given
(``engine.runs.command``): the bare process is 370 MiB, freed blocks are kept for the next step. CUDA, MPS: published
sizes, not measured."""


class MemoryEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes on one device at the fullest instant of a step. The parts add up to the total."""

    parameters_bytes: int
    """Weights, with their bfloat16 copies under autocast."""
    gradients_bytes: int
    """Those that exist at that instant: none at the loss when they are released after each step."""
    optimiser_bytes: int
    activations_bytes: int
    """What the forward pass kept for the backward pass, and the backward pass's own temporaries."""
    logits_bytes: int
    overhead_bytes: int
    """The process, its context and communicators, and the allocator's reserve."""
    total_bytes: int
    instant: str
    """Which instant is the fullest: ``loss``, ``backward``, ``end of backward`` or ``optimiser step``."""


class _Instant(NamedTuple):
    name: str
    parameters: float
    gradients: float
    activations: float
    logits: float


class _Kept(NamedTuple):
    """Bytes of one micro-batch that the forward pass keeps, and that a layer's backward pass adds at its worst."""

    layer: float
    final: float
    """Of the final norm, and the input of the head."""
    transient: float
    attention_scores: float
    """Part of ``layer`` that grows with the square of the sequence length."""


def estimate_memory(shape: ModelShape, layout: Layout, optim: OptimSpec, sequence_length: int) -> MemoryEstimate:
    """The memory of each device under ``layout``, single device or DDP, float32 or bfloat16 autocast."""
    parts = parameter_breakdown(shape)
    states = parts.total * optimiser_bytes_per_parameter(optim)
    instants = _instants(shape, layout, parts, sequence_length)
    peak = max(instants, key=lambda at: at.parameters + at.gradients + at.activations + at.logits)
    tensors = states + peak.parameters + peak.gradients + peak.activations + peak.logits
    overhead = OVERHEADS[layout.accelerator]
    extra = overhead.fixed_bytes + overhead.reserved_share * tensors
    if layout.world_size > 1:
        extra += overhead.group_bytes
    rounded = [round(value) for value in (*peak[1:], states, extra)]
    return MemoryEstimate(
        parameters_bytes=rounded[0],
        gradients_bytes=rounded[1],
        activations_bytes=rounded[2],
        logits_bytes=rounded[3],
        optimiser_bytes=rounded[4],
        overhead_bytes=rounded[5],
        total_bytes=sum(rounded),
        instant=peak.name,
    )


def optimiser_bytes_per_parameter(optim: OptimSpec) -> int:
    """Adam keeps two float32 moments (Kingma & Ba 2015), SGD one or none."""
    if optim.name == "sgd":
        return 4 if optim.momentum else 0
    return 8


def _instants(shape: ModelShape, layout: Layout, parts: ParameterBreakdown, sequence_length: int) -> list[_Instant]:
    tokens = layout.micro_batch * sequence_length
    mixed = layout.precision == "bf16-mixed"
    kept = _kept_lstm(shape, tokens, mixed) if shape.family == "lstm" else _kept_decoder(shape, layout, sequence_length)
    weights = 4.0 * parts.total
    table = shape.vocabulary * shape.hidden
    layer_weights = (parts.attention + parts.mlp + parts.recurrent) / shape.layers
    copies = 2.0 * (layer_weights * shape.layers + table) if mixed else 0.0
    # Gradients outlive the step where they are views of DDP's buckets, and the micro-batch where more follow.
    persist = 4.0 * parts.total if layout.world_size > 1 or layout.accumulation > 1 else 0.0
    head_gradient = 4.0 * table
    all_layers = shape.layers * kept.layer
    logits = float(tokens * shape.vocabulary)
    # A tied table gets two gradients of its full size, and float32 needs a third place to add them up.
    spare_tables = 4.0 * table * ((1 if mixed else 2) if shape.tied_embeddings else 0)
    first = max(persist, head_gradient + 4.0 * _first_gradient(shape, layer_weights))
    last = max(persist, 4.0 * parts.total)
    return [
        # Log-probabilities, their gradient and that of the logits, in float32 (3 x 4 bytes): measured.
        _Instant("loss", weights + copies, persist, all_layers + kept.final, 12.0 * logits),
        _Instant("backward", weights + copies, first, all_layers + kept.transient, 0.0),
        _Instant("end of backward", weights + copies / shape.layers, last, kept.layer + kept.transient, 0.0),
        _Instant("end of backward", weights, last + spare_tables, 0.0, 0.0),
        _Instant("optimiser step", weights, last, 0.0, 0.0),
    ]


def _first_gradient(shape: ModelShape, layer_weights: float) -> float:
    """Parameters whose gradients exist when the last layer's temporaries are the largest."""
    return layer_weights if shape.family == "lstm" else float(shape.hidden * shape.feed_forward)


def _kept_decoder(shape: ModelShape, layout: Layout, sequence_length: int) -> _Kept:
    """Sizes counted tensor by tensor through :class:`engine.model.decoder.Block`, in bytes."""
    tokens = layout.micro_batch * sequence_length
    mixed = layout.precision == "bf16-mixed"
    # The stream and the norms stay in float32 under autocast; what linear layers read and write is bfloat16.
    stream, inner = 4, 2 if mixed else 4
    hidden, heads = shape.hidden, shape.heads * shape.head_size
    keys = shape.kv_heads * shape.head_size
    swiglu = shape.mlp == "swiglu"
    norm = stream * (hidden + (1 if shape.norm == "rmsnorm" else 2))
    readers = (3, 2 if swiglu else 1) if mixed else (1, 1)
    normed = inner * hidden * (readers[0] + readers[1])
    attention = inner * (2 * heads + 2 * keys) + 4 * shape.heads
    mlp = inner * shape.feed_forward * (4 if swiglu else 2)
    scores = _score_bytes(shape, layout, inner) * sequence_length
    # One byte of mask for each value that dropout may hide, behind attention and behind the MLP.
    masks = 2 * hidden if shape.dropout else 0
    layer = 2 * norm + normed + attention + mlp + scores + masks
    final = norm + inner * hidden
    transient = stream * hidden + inner * shape.feed_forward * (2 if swiglu else 1)
    # A stored score matrix is doubled while its softmax is differentiated.
    transient = max(transient, stream * hidden + 2 * inner * shape.heads * sequence_length if scores else 0)
    return _Kept(
        layer=float(tokens * layer), final=float(tokens * final), transient=float(tokens * transient),
        attention_scores=float(tokens * scores),
    )  # fmt: skip


def _score_bytes(shape: ModelShape, layout: Layout, inner: int) -> int:
    """Bytes kept for each query and key where attention is the plain form; 0 where it is a fused kernel."""
    if layout.accelerator == "mps":
        return shape.heads * (inner + (inner + 1 if shape.dropout else 0))
    if layout.accelerator == "cpu" and shape.dropout:
        return shape.heads * (2 * inner + 1)
    return 0


def _kept_lstm(shape: ModelShape, tokens: int, mixed: bool) -> _Kept:
    """Input and output of each layer, and the workspace of oneDNN's LSTM: gates, cells and states at each position.

    The workspace was measured: 61 bytes per position and unit in float32, 43 under autocast, within 2 % for
    widths 128 to 700 and any batch. cuDNN's reserve is taken to be as large.
    """
    size = 2 if mixed else 4
    row = tokens * shape.hidden
    workspace = 43 if mixed else 61
    cell = 4 * shape.hidden * 2 * shape.hidden
    # The backward pass holds the gradients of the four gates, of input and output, and reordered weights.
    transient = row * size * 6.5 + 2 * size * cell
    return _Kept(
        layer=float(row * (workspace + size)), final=float(row * size), transient=float(transient), attention_scores=0.0
    )
