"""The LSTM language model, the baseline the field started from (Zaremba et al. 2014)."""

from __future__ import annotations

from torch import Tensor, nn

from engine.contract.shape import ModelShape
from engine.model.cache import Cache, LstmState
from engine.model.criterion import Criterion


class LstmModel(nn.Module):
    """Embedding, stacked LSTM cells, output layer; dropout on the connections between them only.

    Every sequence starts from a zero state. The embedding is as wide as the cells, so it can always be
    tied to the output layer (Press & Wolf 2017).
    """

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.hidden)
        self.dropout = nn.Dropout(shape.dropout) if shape.dropout else nn.Identity()
        self.cells = nn.LSTM(
            shape.hidden,
            shape.hidden,
            num_layers=shape.layers,
            bias=shape.bias,
            batch_first=True,
            dropout=shape.dropout if shape.layers > 1 else 0.0,
        )
        self.head = nn.Linear(shape.hidden, shape.vocabulary, bias=shape.bias)
        self.criterion = Criterion()
        self.tie_weights()

    def tie_weights(self) -> None:
        """Let head and embedding share their table; to be called again after ``to_empty`` from the meta device."""
        if self.shape.tied_embeddings:
            self.head.weight = self.embedding.weight

    def new_cache(self, capacity: int) -> LstmState:
        """An empty state; it takes any number of tokens, so ``capacity`` is not needed."""
        del capacity
        return LstmState()

    def forward(self, tokens: Tensor, cache: Cache | None = None, targets: Tensor | None = None) -> Tensor:
        """Logits (batch, seq, vocabulary) of ``tokens`` (batch, seq), or what ``criterion`` says of ``targets``, (2,).

        With a cache, ``tokens`` continue what it holds, and only the last position's logits are computed.
        """
        assert cache is None or isinstance(cache, LstmState)
        x, state = self.cells(self.dropout(self.embedding(tokens)), None if cache is None else cache.value)
        if cache is not None:
            cache.value = state
            x = x[:, -1:]
        x = self.dropout(x)
        return self.head(x) if targets is None else self.criterion(self.head, x, targets)  # type: ignore[no-any-return]  # nn.Module
