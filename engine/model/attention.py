"""Causal self-attention with grouped key/value heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.contract.shape import ModelShape
from engine.model.cache import LayerCache
from engine.model.layers import Rotation, rotate


class Attention(nn.Module):
    """Separate projections for queries, keys and values, so that each can be sharded by head from outside.

    Head counts are read off the projections' widths, so that a module whose projections were cut to a
    part of the heads works unchanged.
    """

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.head_size = shape.head_size
        self.dropout = shape.dropout
        self.query = nn.Linear(shape.hidden, shape.heads * shape.head_size, bias=shape.bias)
        self.key = nn.Linear(shape.hidden, shape.kv_heads * shape.head_size, bias=shape.bias)
        self.value = nn.Linear(shape.hidden, shape.kv_heads * shape.head_size, bias=shape.bias)
        self.mix: nn.Module = CausalAttention()
        """Replaced where a rank has only a part of the keys."""
        self.output = nn.Linear(shape.heads * shape.head_size, shape.hidden, bias=shape.bias)

    def forward(self, x: Tensor, rotation: Rotation | None = None, cache: LayerCache | None = None) -> Tensor:
        """``x`` and the result are (batch, seq, hidden); ``rotation`` belongs to these positions."""
        batch, length, _ = x.shape
        query = self.query(x).view(batch, length, -1, self.head_size)
        key = self.key(x).view(batch, length, -1, self.head_size)
        value = self.value(x).view(batch, length, -1, self.head_size)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        if cache is not None:
            key, value = cache.append(key, value)
        mixed = self.mix(query, key, value, self.dropout if self.training else 0.0)
        return self.output(mixed.transpose(1, 2).reshape(batch, length, -1))  # type: ignore[no-any-return]  # nn.Module


class CausalAttention(nn.Module):
    """Each query sees the keys up to its own position; queries are the last positions of the keys."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
        """``query`` (batch, heads, seq, head_size), ``key`` and ``value`` (batch, kv_heads, keys, head_size)."""
        queries, keys = query.shape[2], key.shape[2]
        return functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=_tail_mask(queries, keys, query.device) if 1 < queries < keys else None,
            is_causal=1 < queries == keys,
            dropout_p=dropout,
            enable_gqa=query.shape[1] != key.shape[1],
        )


def _tail_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """Which of ``keys`` positions each of the last ``queries`` sees: (queries, keys) of bool."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(diagonal=keys - queries)
