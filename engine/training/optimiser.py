"""Optimisers by name, with weight decay where it belongs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from engine.contract.spec import OptimSpec

FUSED_DEVICES = frozenset({"cpu", "cuda", "mps"})
"""Where torch updates all parameters in one kernel."""


def build_optimiser(model: nn.Module, optim: OptimSpec, device: torch.device) -> Optimizer:
    """The optimiser that ``optim`` names over the parameters of ``model``, fused where ``device`` has that."""
    groups = parameter_groups(model, optim.weight_decay)
    if device.type in FUSED_DEVICES:
        try:
            return _build(groups, optim, fused=True)
        except RuntimeError:
            pass  # this build of torch has no fused kernel for the device: the plain one computes the same
    return _build(groups, optim, fused=False)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices (embeddings included) decay, vectors (norms and biases) do not.

    Decaying a gain or a bias pulls it from where it has to be without restraining what the model can fit.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in parameters if parameter.ndim >= 2], "weight_decay": weight_decay},
        {"params": [parameter for parameter in parameters if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _build(groups: list[dict[str, Any]], optim: OptimSpec, *, fused: bool) -> Optimizer:
    betas = (optim.beta1, optim.beta2)
    match optim.name:
        case "sgd":
            return SGD(groups, lr=optim.lr, momentum=optim.momentum, nesterov=optim.nesterov, fused=fused)
        case "adam":
            return Adam(groups, lr=optim.lr, betas=betas, eps=optim.eps, fused=fused)
        case "adamw":
            return AdamW(groups, lr=optim.lr, betas=betas, eps=optim.eps, fused=fused)


def set_learning_rate(optimiser: Optimizer, rate: float) -> None:
    """Use ``rate`` for the next update, in every group."""
    for group in optimiser.param_groups:
        group["lr"] = rate
