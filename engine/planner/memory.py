"""How much memory one device needs to train a shape under a layout: the maximum over instants, not a sum.

What is alive is followed through one step: the forward pass keeps activations (:mod:`engine.planner.activations`), the
loss needs several copies of the logits, the backward pass trades activations for gradients, and the optimiser needs
all states. The part that is alive in the fullest of these instants is the answer.

Assumed:

- Attention does not store its scores (flash or memory-efficient kernels), except with dropout on the CPU and on
  Apple GPUs, where torch has only the plain form for training.
- A norm keeps its input and one or two numbers per token, as ours and torch's fused ones do.
- Autocast to 16 bits keeps the weights in float32, makes one 16-bit copy of each matrix that lives from the
  forward to the backward pass, and one of the normed stream for each linear layer that reads it. Shards of layers are
  gathered in 16 bits, so that no copy is made of what was gathered.
- SGD and Adam are fused and need no temporaries; Adafactor and Muon work on one whole matrix at a time. DDP's
  gradients are views of its buckets, so that they need no second copy but are never released.
- A layer's shards are gathered while the layer before it computes (Rajbhandari et al. 2020, ZeRO-3), two layers at a
  time; ZeRO-2 keeps all gathered until the backward pass is over; between the micro-batches of a pipeline both stay,
  gathered parameters and whole gradients (``torch.distributed.pipelining.stage``).
- ``OVERHEADS`` holds what processes, contexts and communicators take, from published values; the CPU's was measured.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from engine.contract.layout import Layout
from engine.contract.mesh import coordinate, micro_batch_of
from engine.contract.shape import ModelShape
from engine.contract.spec import OptimSpec
from engine.planner.activations import MIXED, Kept, copies_alone, in_flight, kept_by, wrapped
from engine.planner.share import Share, share_of

MIB = 2**20


class Overhead(NamedTuple):
    """What a worker takes besides its tensors."""

    fixed_bytes: int
    """Libraries, context, workspaces."""
    group_bytes: int
    """Communicators and their buffers, for each axis with more than one rank."""
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
    """Weights, with their 16-bit copies under autocast, and what of other ranks' shards is gathered."""
    gradients_bytes: int
    """Those that exist at that instant: none at the loss when they are released after each step."""
    optimiser_bytes: int
    activations_bytes: int
    """What the forward pass kept for the backward pass, and temporaries of the backward pass or of the optimiser."""
    logits_bytes: int
    overhead_bytes: int
    """The process, its context and communicators, and the allocator's reserve."""
    total_bytes: int
    host_bytes: int = 0
    """On the host besides, where the optimiser's state is kept there."""
    instant: str
    """Which instant is the fullest: ``loss``, ``backward``, ``end of backward`` or ``optimiser step``."""


class _Instant(NamedTuple):
    name: str
    parameters: float
    gradients: float
    activations: float
    logits: float


class _Weights(NamedTuple):
    """Bytes of a rank's parameters and gradients in their several forms."""

    stored: float
    """Parameters as they lie between steps."""
    forward: float
    """Copies and gathered shards that stand when the loss is computed."""
    backward: float
    """The same while a layer's gradients are computed."""
    closing: float
    """The same when the first layer's gradients are computed."""
    layer: float
    """Of a gathered layer's gradient and the room to reduce it, beside what is kept."""


def estimate_memory(shape: ModelShape, layout: Layout, optim: OptimSpec, sequence_length: int) -> MemoryEstimate:
    """The memory of the rank that needs most under ``layout``."""
    return max(
        (
            memory_at(shape, layout, optim, sequence_length, pp, layout.micro_batch)
            for pp in range(layout.pp)
        ),
        key=lambda memory: memory.total_bytes,
    )  # fmt: skip


def memory_of_ranks(shape: ModelShape, layout: Layout, optim: OptimSpec, sequence_length: int) -> list[MemoryEstimate]:
    """The memory of every rank, in their order."""
    known: dict[tuple[int, int], MemoryEstimate] = {}
    result = []
    for rank in range(layout.world_size):
        key = coordinate(layout, rank).pp, micro_batch_of(layout, rank)
        if key not in known:
            known[key] = memory_at(shape, layout, optim, sequence_length, *key)
        result.append(known[key])
    return result


def memory_at(
    shape: ModelShape, layout: Layout, optim: OptimSpec, sequence_length: int, pp: int, micro_batch: int
) -> MemoryEstimate:
    """The memory of a rank at position ``pp`` of the pipeline that processes ``micro_batch`` sequences at a time."""
    share = share_of(shape, layout, pp)
    kept = kept_by(shape, layout, sequence_length, micro_batch)
    states = optimiser_bytes(shape, share, layout, optim)
    offloaded = layout.offload_optimizer and layout.accelerator == "cuda"
    instants = [
        *_instants(layout, share, kept, pp, _weights(layout, share), _first_gradient(shape, share, layout)),
        _optimiser_step(layout, share, optim),
    ]
    peak = max(instants, key=lambda at: at.parameters + at.gradients + at.activations + at.logits)
    held = 0.0 if offloaded else states
    tensors = held + peak.parameters + peak.gradients + peak.activations + peak.logits
    overhead = OVERHEADS[layout.accelerator]
    groups = sum(size > 1 for size in (layout.pp, layout.dp_replicate, layout.dp_shard, layout.cp, layout.tp))
    extra = overhead.fixed_bytes + overhead.reserved_share * tensors + groups * overhead.group_bytes
    rounded = [round(value) for value in (*peak[1:], held, extra)]
    # The host updates its own copy of the parameters from gradients that are brought there.
    on_host = states + 2 * _parameter_bytes(layout) * share.total / _shards(layout)
    return MemoryEstimate(
        parameters_bytes=rounded[0],
        gradients_bytes=rounded[1],
        activations_bytes=rounded[2],
        logits_bytes=rounded[3],
        optimiser_bytes=rounded[4],
        overhead_bytes=rounded[5],
        total_bytes=sum(rounded),
        host_bytes=round(on_host) if offloaded else 0,
        instant=peak.name,
    )


def optimiser_bytes(shape: ModelShape, share: Share, layout: Layout, optim: OptimSpec) -> float:
    """The optimiser's state on a rank, in the parameters' precision.

    Adam keeps two moments (Kingma & Ba 2015), SGD one or none, Muon one of the hidden matrices and two of the rest
    (Jordan et al. 2024), Adafactor sums of rows and columns, whole on each rank (Shazeer & Stern 2018).
    """
    size, shards = _parameter_bytes(layout), _shards(layout)
    match optim.name:
        case "sgd":
            return size * share.total / shards if optim.momentum else 0.0
        case "adafactor":
            return size * share.factored(shape)
        case "muon":
            hidden = share.weight_sets * share.layer
            return size * (hidden + 2 * (share.total - hidden)) / shards
        case _:
            return 2 * size * share.total / shards


def _parameter_bytes(layout: Layout) -> int:
    return 2 if layout.precision == "bf16-true" else 4


def _shards(layout: Layout) -> int:
    """Ranks among which parameters, gradients and the optimiser's state are split: those of a sequence take part."""
    return layout.dp_shard * layout.cp if layout.dp_shard > 1 else 1


def _weights(layout: Layout, share: Share) -> _Weights:
    size, shards, mixed = _parameter_bytes(layout), _shards(layout), layout.precision in MIXED
    stored = size * share.total / shards
    head_copy = 2.0 * share.table * share.last if mixed else 0.0
    one = share.layer + share.layer_norms
    if shards == 1 and wrapped(layout):
        # Each layer gets a copy of its own parameters, which stays until its gradients are computed.
        copies = (2.0 if mixed else size) * share.layers_total + size * share.outer + head_copy
        return _Weights(stored, copies, copies, copies / share.weight_sets, 4.0 * one)
    if shards == 1:
        copies = 2.0 * share.layer * share.weight_sets if mixed else 0.0
        copies += head_copy
        return _Weights(stored, copies, copies, copies / share.weight_sets, 0.0)
    gathered = 2 if mixed else size
    outer = size * share.outer
    everything = gathered * share.layers_total
    whole = layout.pp > 1 or not layout.reshard or share.weight_sets < sum(share.stages)
    forward = everything if whole else 0.0
    backward = everything if whole else 2.0 * gathered * one
    # What is reduced is copied together in float32 first.
    return _Weights(
        stored, outer + head_copy + forward, outer + head_copy + backward, outer + backward, (gathered + 4.0) * one
    )


def _first_gradient(shape: ModelShape, share: Share, layout: Layout) -> float:
    """Parameters whose gradients exist when the last layer's temporaries are the largest."""
    return share.layer if shape.family == "lstm" else shape.hidden * shape.feed_forward / layout.tp


def _instants(
    layout: Layout, share: Share, kept: Kept, pp: int, weights: _Weights, first_gradient: float
) -> list[_Instant]:
    """From the loss, which a rank without the head does not see, to the end of the backward pass."""
    size, shards = _parameter_bytes(layout), _shards(layout)
    flights = in_flight(layout, pp)
    stages = [kept.stage(layers, layout) for layers in share.stages]
    waiting = sum(count * (stage + kept.stream * (layout.pp > 1)) for count, stage in zip(flights, stages, strict=True))
    # Room for each micro-batch's stream and its gradient is there from the start.
    waiting += kept.stream * layout.accumulation * len(stages) * (layout.pp > 1)
    if share.last:
        waiting += kept.final * (flights[-1] - 1)
    if layout.schedule == "zero-bubble":
        # Gradients of all results, of those micro-batches whose weights' gradients are put off: one more on each rank.
        waiting += min(pp, layout.accumulation) * max(stages)
    every = size * share.total
    summed = every / shards
    # In DDP's buckets gradients outlive the step, elsewhere the micro-batch where more follow; between those of a
    # pipeline they are not reduced, so each rank has them whole.
    persist = summed if copies_alone(layout) or layout.accumulation > 1 else 0.0
    if shards > 1 and layout.pp > 1:
        persist = every
    head = size * share.table * share.last
    first = max(persist, head + size * first_gradient) if shards == 1 else persist + head + weights.layer
    if shards == 1:
        last = max(persist, every)
    else:
        last = max(persist, summed) + size * share.outer + weights.layer
    # A tied table gets two gradients of its full size, and float32 needs a third place to add them up.
    spare = size * share.table * ((1 if layout.precision in MIXED else 2) if share.tied else 0)
    reduced = 0.0 if shards == 1 else size * share.outer
    loss = []
    if share.last:
        # Log-probabilities, their gradient and that of the logits, in float32 (3 x 4 bytes): measured. Of micro-batches
        # that wait for their backward pass, the first. In pieces, each is computed again, and the head's gradient is
        # there already.
        pieces = layout.loss_chunks
        logits = kept.logits * 12.0 / pieces + (kept.logits * 4.0 * (flights[-1] - 1) if pieces == 1 else 0.0)
        grads = persist + (2 * head if pieces > 1 else 0.0)
        loss = [_Instant("loss", weights.stored + weights.forward, grads, waiting + kept.final, logits)]
    stage = max(stages)
    repeated = max(kept.repeated(layers, layout) for layers in share.stages)
    # The first layer of a stage, which goes backward last, is always among those that compute again.
    layer = kept.layer if layout.checkpointing == "none" else kept.recomputed + kept.again
    return [
        *loss,
        _Instant("backward", weights.stored + weights.backward, first, waiting + repeated + kept.transient, 0.0),
        _Instant(
            "end of backward", weights.stored + weights.closing, last, waiting - stage + layer + kept.transient, 0.0
        ),
        _Instant("end of backward", weights.stored + reduced, last + spare, waiting - stage, 0.0),
    ]


def _optimiser_step(layout: Layout, share: Share, optim: OptimSpec) -> _Instant:
    """All gradients, and for those optimisers that look at whole matrices some copies of the largest one."""
    size, shards = _parameter_bytes(layout), _shards(layout)
    matrix = max(share.largest_matrix, share.table * layout.tp if optim.name == "adafactor" else 0.0)
    split = shards * layout.tp > 1
    copies = {"adafactor": size * (4.0 if split else 2.0), "muon": 8.0}.get(optim.name, 0.0)
    stored = size * share.total / shards
    return _Instant("optimiser step", stored, stored, copies * matrix, 0.0)
