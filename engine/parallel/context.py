"""Context parallel: each rank of ``cp`` holds a part of every sequence.

Which part, says :func:`engine.parallel.mesh.own_positions`. Keys and values are gathered, which runs everywhere; on
CUDA torch passes them around a ring instead (Liu et al. 2023), unless there is dropout: its ring remembers the random
numbers of one piece alone, and the gradients of the others would be wrong.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, distributed, nn
from torch.distributed._functional_collectives import all_gather_single_autograd
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.experimental._attention import _ContextParallel, _enable_context_parallel_dispatcher
from torch.distributed.tensor.parallel import parallelize_module
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from engine.model.attention import Attention, CausalAttention
from engine.model.decoder import Block, Decoder

RING_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
"""What torch can pass around a ring."""


def apply_context_parallel(part: Decoder, group: distributed.ProcessGroup, device: torch.device) -> None:
    """Let the attention of ``part`` look at the keys and values of the whole ``group``."""
    ring = DeviceMesh.from_group(group, "cuda") if device.type == "cuda" and part.shape.dropout == 0 else None
    for attention in _attentions(part):
        attention.mix = GatheredAttention(group) if ring is None else RingAttention(ring)


class GatheredAttention(nn.Module):
    """Causal attention of the queries here to the keys and values of all ranks."""

    def __init__(self, group: distributed.ProcessGroup) -> None:
        super().__init__()
        self._group = group
        self._rank = distributed.get_rank(group)
        self._ranks = distributed.get_world_size(group)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
        """All (batch, heads, seq / cp, head_size), the two pieces one after the other; likewise the result."""
        both = torch.stack((key, value)).contiguous()
        gathered = all_gather_single_autograd(both, gather_dim=0, group=self._group)
        piece = query.shape[2] // 2
        keys, values = self._ordered(gathered, piece)
        early, late = query.chunk(2, dim=2)
        parts = [
            _lower_right(rows, keys[:, :, :end], values[:, :, :end], dropout)
            for rows, end in (
                (early, (self._rank + 1) * piece),
                (late, (2 * self._ranks - self._rank) * piece),
            )
        ]
        return torch.cat(parts, dim=2)

    def _ordered(self, gathered: Tensor, piece: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the whole sequence in its order, from what the ranks hold."""
        by_rank = gathered.view(self._ranks, 2, *gathered.shape[1:])
        heads = [by_rank[rank, :, :, :, :piece] for rank in range(self._ranks)]
        tails = [by_rank[rank, :, :, :, piece:] for rank in reversed(range(self._ranks))]
        keys, values = torch.cat((*heads, *tails), dim=3)
        return keys, values


def _lower_right(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    """Attention of the last positions of a sequence to all of it, causal."""
    queries, keys = query.shape[2], key.shape[2]
    mask = None
    if queries != keys:
        mask = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(diagonal=keys - queries)
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, dropout_p=dropout,
        enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip


class RingAttention(nn.Module):
    """torch's ring attention, which expects the pieces as they lie here (its head-tail load balancing)."""

    def __init__(self, mesh: DeviceMesh) -> None:
        super().__init__()
        _enable_context_parallel_dispatcher()
        self._ring = CausalAttention()
        style = _ContextParallel(seq_dim=2, attention_type=_ContextParallel.AttentionType.SDPA)
        parallelize_module(self._ring, mesh, style)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
        """As :meth:`GatheredAttention.forward`.

        Only fused kernels go around the ring. Unfused attention would take the pieces for the sequence in its order,
        and be wrong without a word: so it is forbidden, and keys are repeated for the kernels that want as many heads.
        """
        repeats = query.shape[1] // key.shape[1]
        if repeats > 1:
            key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
        with sdpa_kernel(RING_KERNELS):
            return self._ring(query, key, value, dropout)  # type: ignore[no-any-return]  # nn.Module


def _attentions(part: Decoder) -> Iterator[Attention]:
    for block in part.layers.values():
        assert isinstance(block, Block)
        yield block.attention
