"""How many parameters a shape has and how much arithmetic a token costs: exact, and without torch."""

from __future__ import annotations

import msgspec

from engine.contract.shape import ModelShape


class ParameterBreakdown(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters by the part of the network that they are in, all layers together; shared weights count once."""

    embedding: int
    """The token table; the tied output head reads the same one."""
    position: int
    """The table of learned positions."""
    attention: int
    """Query, key, value and output projections."""
    mlp: int
    norm: int
    """Of all layers and the final one."""
    recurrent: int
    """Weights and biases of the LSTM cells."""
    head: int
    """The output layer's own: none but perhaps a bias when it is tied to the embedding."""

    @property
    def total(self) -> int:
        return self.embedding + self.position + self.attention + self.mlp + self.norm + self.recurrent + self.head


def parameter_breakdown(shape: ModelShape) -> ParameterBreakdown:
    """The exact parameters of each part of ``shape``, as :func:`engine.model.build.build_model` makes them."""
    table = shape.vocabulary * shape.hidden
    own_head = 0 if shape.tied_embeddings else table
    if shape.family == "lstm":
        # Four gates, each with a matrix for the input and one for the state; cuDNN keeps two biases.
        cell = 4 * shape.hidden * (2 * shape.hidden + (2 if shape.bias else 0))
        return ParameterBreakdown(
            embedding=table, position=0, attention=0, mlp=0, norm=0, recurrent=shape.layers * cell,
            head=own_head + (shape.vocabulary if shape.bias else 0),
        )  # fmt: skip
    return ParameterBreakdown(
        embedding=table,
        position=shape.positions * shape.hidden if shape.position == "learned" else 0,
        attention=shape.weight_sets * _attention(shape),
        mlp=shape.weight_sets * _mlp(shape),
        norm=(2 * shape.weight_sets + 1) * _norm(shape),
        recurrent=0,
        head=own_head,
    )


def parameter_count(shape: ModelShape) -> int:
    """The exact number of trained parameters; a tied table, and weights that layers share, count once."""
    return parameter_breakdown(shape).total


def matmul_parameters(shape: ModelShape) -> int:
    """Parameters that a token is multiplied with: all but the look-up tables, with the head even if it is tied.

    Weights that layers share count as often as they are used: sharing saves memory, not arithmetic.
    """
    parts = parameter_breakdown(msgspec.structs.replace(shape, layer_groups=None))
    head = shape.vocabulary * shape.hidden if shape.tied_embeddings else 0
    return parts.total - parts.embedding - parts.position + head


def flops_per_token(shape: ModelShape, sequence_length: int) -> float:
    """Floating-point operations that training on one token costs, forward and backward.

    ``6 N + 12 L H Q T`` (Chowdhery et al. 2022, PaLM, appendix B) with N the parameters that take part in
    matrix products, L layers, H heads of size Q, and T the sequence length. As there, attention counts
    as if it were not causal, and what activation checkpointing computes again is not counted. An LSTM
    has no attention term: its recurrent matrices are in N.
    """
    attention = 0
    if shape.family != "lstm":
        attention = 12 * shape.layers * shape.heads * shape.head_size * sequence_length
    return float(6 * matmul_parameters(shape) + attention)


def _attention(shape: ModelShape) -> int:
    queries = shape.heads * shape.head_size
    keys = shape.kv_heads * shape.head_size
    weights = shape.hidden * (queries + 2 * keys) + queries * shape.hidden
    return weights + (queries + 2 * keys + shape.hidden if shape.bias else 0)


def _mlp(shape: ModelShape) -> int:
    inner = 2 if shape.mlp == "swiglu" else 1
    weights = (inner + 1) * shape.hidden * shape.feed_forward
    return weights + (inner * shape.feed_forward + shape.hidden if shape.bias else 0)


def _norm(shape: ModelShape) -> int:
    return shape.hidden * (2 if shape.norm == "layernorm" and shape.bias else 1)
