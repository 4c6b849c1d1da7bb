"""Tensor parallel: each matrix split over the ranks of ``tp`` (Shoeybi et al. 2019), with sequence parallel.

Between the split matrices each rank holds a part of the sequence (Korthikanti et al. 2022): what would be one
all-reduce is an all-gather before and a reduce-scatter behind them, norms are computed once instead of on every rank,
and activations are kept once. Tables of the vocabulary are split by rows, and the loss is computed from split logits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from engine.model.decoder import Decoder


def apply_tensor_parallel(part: Decoder, mesh: DeviceMesh) -> None:
    """Split the matrices of ``part`` over the one axis of ``mesh``.

    The stream between layers is (batch, seq / tp, hidden) then.
    """
    sequence, whole = Shard(1), Replicate()
    plan: dict[str, ParallelStyle] = {
        "embedding": RowwiseParallel(input_layouts=whole, output_layouts=sequence),
        "position_embedding": RowwiseParallel(input_layouts=whole, output_layouts=Shard(0)),
        "norm": SequenceParallel(),
        "criterion": PrepareModuleInput(
            input_layouts=(None, sequence, None), desired_input_layouts=(None, whole, None)
        ),
        "head": ColwiseParallel(input_layouts=sequence, output_layouts=Shard(-1)),
    }
    present = {name: style for name, style in plan.items() if getattr(part, name, None) is not None}
    if part.head is None:
        present.pop("criterion")
    parallelize_module(part, mesh, present)
    for block in part.layers.values():
        parallelize_module(block, mesh, _block_plan(block))
    part.tie_weights()
    part.criterion.score = VocabularyParallel(mesh.get_group())


def _block_plan(block: nn.Module) -> dict[str, ParallelStyle]:
    sequence, whole = Shard(1), Replicate()
    plan: dict[str, ParallelStyle] = {
        "attention_norm": SequenceParallel(),
        "attention": PrepareModuleInput(
            input_layouts=(sequence, None, None), desired_input_layouts=(whole, None, None)
        ),
        "attention.query": ColwiseParallel(),
        "attention.key": ColwiseParallel(),
        "attention.value": ColwiseParallel(),
        "attention.output": RowwiseParallel(output_layouts=sequence),
        "mlp_norm": SequenceParallel(),
        "mlp": PrepareModuleInput(input_layouts=(sequence,), desired_input_layouts=(whole,)),
        "mlp.gate": ColwiseParallel(),
        "mlp.up": ColwiseParallel(),
        "mlp.down": RowwiseParallel(output_layouts=sequence),
    }
    names = dict(block.named_modules())
    return {name: style for name, style in plan.items() if name in names}


class VocabularyParallel:
    """``Criterion.score`` where each rank of ``group`` has the logits of its part of the vocabulary.

    Parts lie in the order of the ranks and are equally large.
    """

    def __init__(self, group: distributed.ProcessGroup) -> None:
        self._group = group

    def __call__(self, logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        """As :func:`engine.model.criterion.cross_entropy_sums`; ``logits`` (n, vocabulary / tp)."""
        result: Tensor = _VocabularyCrossEntropy.apply(logits, targets, label_smoothing, self._group)  # type: ignore[no-untyped-call]
        return result


class _VocabularyCrossEntropy(torch.autograd.Function):
    """Softmax cross-entropy over split logits (Shoeybi et al. 2019, section 3): three numbers per token travel.

    With p the softmax and K the size of the whole vocabulary, the gradient of the smoothed objective is
    ``p - (1 - eps) onehot(target) - eps / K``.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, smoothing: float, group: distributed.ProcessGroup) -> Tensor:
        rank, ranks = distributed.get_rank(group), distributed.get_world_size(group)
        scores = logits.float()
        size = scores.shape[-1]
        highest = scores.amax(dim=-1)
        distributed.all_reduce(highest, op=distributed.ReduceOp.MAX, group=group)
        shifted = scores - highest.unsqueeze(-1)
        local = targets - rank * size
        mine = (local >= 0) & (local < size)
        index = local.clamp(0, size - 1)
        chosen = shifted.gather(-1, index.unsqueeze(-1)).squeeze(-1) * mine
        powers = shifted.exp()
        sums = torch.stack((powers.sum(dim=-1), chosen, shifted.sum(dim=-1) if smoothing else torch.zeros_like(chosen)))
        distributed.all_reduce(sums, group=group)
        total, chosen, all_scores = sums
        cross_entropy = (total.log() - chosen).sum()
        objective = cross_entropy
        if smoothing:
            uniform = (total.log() - all_scores / (size * ranks)).sum()
            objective = (1 - smoothing) * cross_entropy + smoothing * uniform
        ctx.save_for_backward(powers.div_(total.unsqueeze(-1)), index, mine)
        ctx.smoothing, ctx.vocabulary, ctx.dtype = smoothing, size * ranks, logits.dtype
        return torch.stack((objective, cross_entropy))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        probabilities, index, mine = ctx.saved_tensors
        smoothing = ctx.smoothing
        result = probabilities.clone()
        at_target = mine.to(result.dtype).mul_(-(1 - smoothing)).unsqueeze(-1)
        result.scatter_add_(-1, index.unsqueeze(-1), at_target)
        if smoothing:
            result -= smoothing / ctx.vocabulary
        return result.mul_(gradient[0]).to(ctx.dtype), None, None, None
