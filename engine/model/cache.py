"""What a network remembers of the tokens it has read, so that the next one costs one step."""

from __future__ import annotations

from torch import Tensor


class LayerCache:
    """Keys and values of one attention layer, (batch, kv_heads, length, head_size) each."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        self._length = 0

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add the new positions; all keys and values so far. IndexError beyond the capacity."""
        end = self._length + keys.shape[2]
        if end > self._capacity:
            raise IndexError(f"{end} positions do not fit a cache of {self._capacity}")
        if self._keys is None or self._values is None:
            # Made from the first keys, so that dtype and device are right under autocast, too.
            self._keys = keys.new_empty(*keys.shape[:2], self._capacity, keys.shape[3])
            self._values = values.new_empty(*values.shape[:2], self._capacity, values.shape[3])
        self._keys[:, :, self._length : end] = keys
        self._values[:, :, self._length : end] = values
        self._length = end
        return self._keys[:, :, :end], self._values[:, :, :end]


class DecoderCache:
    """The keys and values of every layer, and how many positions they hold."""

    def __init__(self, layers: int, capacity: int) -> None:
        self.layers = [LayerCache(capacity) for _ in range(layers)]
        self.length = 0


class LstmState:
    """Hidden and cell state, (layers, batch, hidden) each; None before the first token."""

    def __init__(self) -> None:
        self.value: tuple[Tensor, Tensor] | None = None


Cache = DecoderCache | LstmState
