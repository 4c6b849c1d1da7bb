"""``ModelShape``: a network with every dimension decided."""

from __future__ import annotations

from typing import Literal

import msgspec

from engine.contract.spec import Family

Norm = Literal["layernorm", "rmsnorm"]
Position = Literal["learned", "rotary", "none"]
Mlp = Literal["gelu", "swiglu", "none"]


class RopeScaling(msgspec.Struct, frozen=True, kw_only=True):
    """How Llama 3.1 and later stretch rotary positions (Grattafiori et al. 2024; Hugging Face's ``llama3`` rope type).

    Pairs that turn slowly are slowed down by ``factor``; those that turn fast are left; between the two it blends.
    """

    factor: float
    low_frequency_factor: float
    """Pairs turning fewer times than this within the original positions are slowed down in full."""
    high_frequency_factor: float
    """Pairs turning more often than this within the original positions are left as they are."""
    original_positions: int
    """Longest sequence before the stretching."""


class ModelShape(msgspec.Struct, frozen=True, kw_only=True):
    """All that is needed to build a network and to count its parameters exactly.

    The two decoder families differ in the choices below: GPT-2 has LayerNorm, learned positions, a
    GELU MLP, biases and tied embeddings (Radford et al. 2019); Llama has RMSNorm, rotary positions, a
    SwiGLU MLP, no biases and grouped key/value heads (Touvron et al. 2023). An LSTM language model
    (Zaremba et al. 2014) uses ``layers``, ``hidden`` and ``vocabulary`` alone.
    """

    family: Family
    layers: int
    layer_groups: int | None = None
    """Sets of weights that layers share; None: every layer has its own. Layer ``i`` uses set ``i groups // layers``."""
    hidden: int
    heads: int = 1
    kv_heads: int = 1
    head_size: int = 1
    feed_forward: int = 0
    vocabulary: int
    positions: int
    """Longest sequence; sizes the learned position table, and only that."""
    norm: Norm
    position: Position
    mlp: Mlp
    bias: bool
    tied_embeddings: bool
    dropout: float = 0.0
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-5

    @property
    def weight_sets(self) -> int:
        """Layers with weights of their own."""
        return self.layer_groups or self.layers

    def weights_of(self, layer: int) -> int:
        """The set of weights that ``layer`` uses."""
        return layer * self.weight_sets // self.layers
