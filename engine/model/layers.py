"""The parts that the decoder families choose from: norms, MLPs, rotary positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.contract.shape import ModelShape
from engine.model.rmsnorm import RMSNorm, as_precise


class LayerNorm(nn.LayerNorm):
    """LayerNorm (Ba et al. 2016), in the precision of the stream even where its parameters are in a lower one."""

    def forward(self, x: Tensor) -> Tensor:
        weight = as_precise(self.weight, x)
        bias = None if self.bias is None else as_precise(self.bias, x)
        return functional.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


def make_norm(shape: ModelShape) -> nn.Module:
    """LayerNorm or RMSNorm over the hidden size."""
    if shape.norm == "layernorm":
        return LayerNorm(shape.hidden, eps=shape.norm_eps, bias=shape.bias)
    return RMSNorm(shape.hidden, eps=shape.norm_eps)


class GeluMLP(nn.Module):
    """``down(gelu(up(x)))`` with the tanh approximation of GELU, which GPT-2 was trained with."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.up = nn.Linear(shape.hidden, shape.feed_forward, bias=shape.bias)
        self.down = nn.Linear(shape.feed_forward, shape.hidden, bias=shape.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(functional.gelu(self.up(x), approximate="tanh"))  # type: ignore[no-any-return]  # nn.Module


class SwigluMLP(nn.Module):
    """``down(silu(gate(x)) * up(x))`` (Shazeer 2020)."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.gate = nn.Linear(shape.hidden, shape.feed_forward, bias=shape.bias)
        self.up = nn.Linear(shape.hidden, shape.feed_forward, bias=shape.bias)
        self.down = nn.Linear(shape.feed_forward, shape.hidden, bias=shape.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(functional.silu(self.gate(x)) * self.up(x))  # type: ignore[no-any-return]  # nn.Module


def make_mlp(shape: ModelShape) -> nn.Module:
    """The MLP of the shape's kind."""
    return SwigluMLP(shape) if shape.mlp == "swiglu" else GeluMLP(shape)


Rotation = tuple[Tensor, Tensor]
"""Cosines and signed sines, each (seq, 1, head_size)."""


def rotary_frequencies(shape: ModelShape, device: torch.device) -> Tensor:
    """Radians per position of each pair of dimensions, (head_size / 2,) (Su et al. 2021, equation 15)."""
    exponents = torch.arange(0, shape.head_size, 2, dtype=torch.float32, device=device) / shape.head_size
    frequencies = 1.0 / shape.rope_theta**exponents
    scaling = shape.rope_scaling
    if scaling is None:
        return frequencies
    turns = scaling.original_positions * frequencies / (2 * math.pi)
    span = scaling.high_frequency_factor - scaling.low_frequency_factor
    kept = ((turns - scaling.low_frequency_factor) / span).clamp(0, 1)
    return frequencies * (kept + (1 - kept) / scaling.factor)


def rotary_angles(shape: ModelShape, positions: Tensor) -> Rotation:
    """The rotation at ``positions`` (seq,), in float32.

    Computed anew in every forward pass: it costs microseconds, knows no longest sequence, and leaves no
    buffer to be lost between the meta device and the real one.
    """
    angles = torch.outer(positions.to(torch.float32), rotary_frequencies(shape, positions.device))
    cosine, sine = angles.cos(), angles.sin()
    return torch.cat((cosine, cosine), dim=-1)[:, None], torch.cat((-sine, sine), dim=-1)[:, None]


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn the pairs (i, i + head_size / 2) of ``x`` (batch, seq, heads, head_size) by their angles.

    The pairing is that of Hugging Face weights (Meta's own files pair neighbours).
    """
    cosine, sine = rotation
    halves_swapped = torch.roll(x, x.shape[-1] // 2, dims=-1)
    return torch.addcmul(x * cosine.to(x.dtype), halves_swapped, sine.to(x.dtype))
