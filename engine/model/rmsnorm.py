"""RMSNorm (Zhang & Sennrich 2019), with a backward pass of its own for the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class RMSNorm(nn.RMSNorm):
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last dimension.

    torch has fused kernels for it on GPUs, but on the CPU autograd differentiates its parts one by one. There
    the formula below takes half the time, which is about 3 % of training a model of 3 M parameters.
    """

    weight: nn.Parameter
    eps: float

    def forward(self, x: Tensor) -> Tensor:
        by_hand = (
            x.device.type == "cpu"
            and torch.is_grad_enabled()
            and x.dtype == self.weight.dtype == torch.float32
            and not torch.compiler.is_compiling()
        )
        if by_hand:
            return _CpuRMSNorm.apply(x, self.weight, self.eps)  # type: ignore[no-any-return, no-untyped-call]  # torch's
        return functional.rms_norm(x, self.normalized_shape, as_precise(self.weight, x), self.eps)


def as_precise(parameter: Tensor, x: Tensor) -> Tensor:
    """``parameter`` in the precision of ``x`` if its own is lower: torch's fused norms take no such mixture."""
    return parameter.to(x.dtype) if parameter.dtype.itemsize < x.dtype.itemsize else parameter


class _CpuRMSNorm(torch.autograd.Function):
    """With ``n = x / rms(x)`` and ``h = g * weight``: ``dx = (h - n * mean(h * n)) / rms(x)``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        squares = torch.linalg.vecdot(x, x).unsqueeze(-1)
        scale = torch.rsqrt(squares / x.shape[-1] + eps)
        normed = x * scale
        ctx.save_for_backward(normed, weight, scale)
        return normed * weight

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        normed, weight, scale = ctx.saved_tensors
        by_weight = (gradient * normed).flatten(0, -2).sum(0)
        inner = gradient * weight
        along = torch.linalg.vecdot(inner, normed).unsqueeze(-1) / normed.shape[-1]
        return torch.addcmul(inner, normed, along, value=-1).mul_(scale), by_weight, None
