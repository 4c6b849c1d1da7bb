"""The decoder: GPT-2 and Llama are the same network with different parts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.contract.shape import ModelShape
from engine.model.attention import Attention
from engine.model.cache import Cache, DecoderCache, LayerCache
from engine.model.criterion import Criterion
from engine.model.layers import Rotation, make_mlp, make_norm, rotary_angles


class Block(nn.Module):
    """One layer: attention, then the MLP, each on the normed stream and added to it."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.attention_norm = make_norm(shape)
        self.attention = Attention(shape)
        self.mlp_norm = make_norm(shape)
        self.mlp = make_mlp(shape)
        self.dropout = nn.Dropout(shape.dropout) if shape.dropout else nn.Identity()

    def forward(self, x: Tensor, rotation: Rotation | None = None, cache: LayerCache | None = None) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), rotation, cache))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))  # type: ignore[no-any-return]  # nn.Module


class Decoder(nn.Module):
    """Token ids in; logits of the next token out, or with targets the loss.

    Plain modules with one attribute per part. A stage of a pipeline is a copy without some of them: ``embedding``,
    ``norm`` and ``head`` may be None and ``order`` may miss layers; it then takes or gives the hidden stream instead
    of ids or logits.
    """

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding: nn.Embedding | None = nn.Embedding(shape.vocabulary, shape.hidden)
        self.position_embedding: nn.Embedding | None = (
            nn.Embedding(shape.positions, shape.hidden) if shape.position == "learned" else None
        )
        self.dropout = nn.Dropout(shape.dropout) if shape.dropout else nn.Identity()
        self.layers = nn.ModuleDict({str(number): Block(shape) for number in range(shape.weight_sets)})
        self.order = [str(shape.weights_of(number)) for number in range(shape.layers)]
        """For each layer the name of the module whose weights it uses."""
        self.norm: nn.Module | None = make_norm(shape)
        self.head: nn.Linear | None = nn.Linear(shape.hidden, shape.vocabulary, bias=False)
        self.criterion = Criterion()
        self.positions: Tensor | None = None
        """Where the tokens stand in their sequence, (seq,); None: one after the other. Set from outside on a rank that
        holds a part of each sequence."""
        self.tie_weights()

    def tie_weights(self) -> None:
        """Let head and embedding share their table; to be called again after ``to_empty`` from the meta device."""
        if self.shape.tied_embeddings and self.embedding is not None and self.head is not None:
            self.head.weight = self.embedding.weight

    def new_cache(self, capacity: int) -> DecoderCache:
        """Room for the keys and values of ``capacity`` positions."""
        return DecoderCache(len(self.order), capacity)

    def forward(self, tokens: Tensor, cache: Cache | None = None, targets: Tensor | None = None) -> Tensor:
        """Logits (batch, seq, vocabulary) of ``tokens`` (batch, seq), or what ``criterion`` says of ``targets``, (2,).

        With a cache, ``tokens`` continue what it holds, and only the last position's logits are computed.
        """
        assert cache is None or isinstance(cache, DecoderCache)
        start = 0 if cache is None else cache.length
        length = tokens.shape[1]
        positions = self.positions
        if positions is None:
            positions = torch.arange(start, start + length, device=tokens.device)
        x = tokens
        if self.embedding is not None:
            x = self.embedding(tokens)
            if self.position_embedding is not None:
                x = x + self.position_embedding(positions)
            x = self.dropout(x)
        rotation = rotary_angles(self.shape, positions) if self.shape.position == "rotary" else None
        for number, name in enumerate(self.order):
            x = self.layers[name](x, rotation, None if cache is None else cache.layers[number])
        if cache is not None:
            cache.length += length
            x = x[:, -1:]
        if self.norm is not None:
            x = self.norm(x)
        if self.head is None:
            return x
        return self.head(x) if targets is None else self.criterion(self.head, x, targets)  # type: ignore[no-any-return]  # nn.Module
