"""torch's own optimiser algorithms, each over a list of parameters that may be shards.

What works element by element (SGD, Adam) works on each rank's part as it lies: one fused kernel over all of them,
whatever meshes they are on. What needs a whole matrix gathers one at a time, so that its memory is that of the
largest matrix, not of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import adam as torch_adam
from torch.optim import sgd as torch_sgd
from torch.optim._adafactor import adafactor as torch_adafactor
from torch.optim._muon import _adjust_lr, _zeropower_via_newtonschulz

from engine.parallel.dtensors import gradient, like, part_of, shard, whole, zeros_like

Group = dict[str, Any]
"""What ``Optimizer.param_groups`` holds."""
Memory = dict[str, Tensor]
"""What an optimiser remembers of one parameter."""
Update = Callable[[list[Tensor], list[Tensor], list[Memory], Group], None]
"""``(parameters, gradients, memories, group)``, all of them plain tensors, updated in place."""

MUON = {
    "momentum": 0.95,
    "nesterov": True,
    "ns_coefficients": (3.4445, -4.7750, 2.0315),
    "eps": 1e-7,
    "ns_steps": 5,
    "adjust_lr_fn": "match_rms_adamw",
}
"""Keller Jordan's settings (2024, https://kellerjordan.github.io/posts/muon/), and the step size of Liu et al. 2025
(Muon is Scalable for LLM Training, equation 4): updates are as large as AdamW's are, so that one learning rate and
one weight decay, those that AdamW would get, serve the matrices and the rest."""

ADAFACTOR = {"beta2_decay": -0.8, "eps": (None, 1e-3), "d": 1.0}
"""torch's defaults, those of Shazeer & Stern 2018. The learning rate is relative to the size of each parameter."""


def update_sgd(parameters: list[Tensor], gradients: list[Tensor], memories: list[Memory], group: Group) -> None:
    """Momentum, or Nesterov's (Sutskever et al. 2013)."""
    torch_sgd.sgd(
        parameters, gradients, [memory.get("momentum_buffer") for memory in memories], fused=group["fused"],
        weight_decay=group["weight_decay"], momentum=group["momentum"], lr=group["lr"], dampening=0.0,
        nesterov=group["nesterov"], maximize=False,
    )  # fmt: skip


def update_adam(parameters: list[Tensor], gradients: list[Tensor], memories: list[Memory], group: Group) -> None:
    """Adam (Kingma & Ba 2015), or AdamW with decoupled weight decay (Loshchilov & Hutter 2019)."""
    torch_adam.adam(
        parameters, gradients, [memory["exp_avg"] for memory in memories],
        [memory["exp_avg_sq"] for memory in memories], [], [memory["step"] for memory in memories],
        fused=group["fused"], decoupled_weight_decay=group["algorithm"] == "adamw", amsgrad=False,
        beta1=group["betas"][0], beta2=group["betas"][1], lr=group["lr"], weight_decay=group["weight_decay"],
        eps=group["eps"], maximize=False,
    )  # fmt: skip


ELEMENTWISE: dict[str, Update] = {"sgd": update_sgd, "adam": update_adam, "adamw": update_adam}
"""The algorithms that need not see more than one element at a time."""


def first_memory(parameter: Tensor, group: Group, zeros: Callable[[Tensor], Tensor] = zeros_like) -> Memory:
    """What an elementwise algorithm or Muon remembers before the first update, under the names that torch gives it."""
    match group["algorithm"]:
        case "muon":
            return {"momentum_buffer": zeros(parameter)}
        case "sgd":
            return {"momentum_buffer": zeros(parameter)} if group["momentum"] else {}
        case _:
            moments = {"exp_avg": zeros(parameter), "exp_avg_sq": zeros(parameter)}
            where = moments["exp_avg"].device if group["fused"] else "cpu"
            return {"step": torch.zeros((), dtype=torch.float32, device=where), **moments}


def step_elementwise(parameters: Sequence[Tensor], memories: Sequence[Memory], group: Group) -> None:
    """One update of each rank's parts, where they are."""
    ELEMENTWISE[group["algorithm"]](
        [shard(parameter) for parameter in parameters],
        [shard(gradient(parameter)) for parameter in parameters],
        [{what: shard(value) for what, value in memory.items()} for memory in memories],
        group,
    )


def step_adafactor(parameter: Tensor, memory: Memory, group: Group) -> None:
    """One update of one parameter (Shazeer & Stern 2018).

    The means over rows and columns, and the sizes of parameter and update, are those of the whole matrix: it and its
    gradient are gathered, updated as torch does on one device, and this rank's part kept. That takes the memory of
    four whole copies of one matrix for the time of its update. The factors are small, and whole on every rank.
    """
    grad = whole(gradient(parameter))
    full = whole(parameter)
    if not memory:
        memory["step"] = torch.zeros((), dtype=torch.float32)
        if full.ndim > 1:
            memory["row_var"] = full.new_zeros(*full.shape[:-1], 1)
            memory["col_var"] = full.new_zeros(*full.shape[:-2], 1, full.shape[-1])
        else:
            memory["variance"] = torch.zeros_like(full)
    torch_adafactor(
        [full], [grad], [memory.get("row_var")], [memory.get("col_var")], [memory.get("variance")], [memory["step"]],
        d=group["d"], lr=group["lr"], beta2_decay=group["beta2_decay"], weight_decay=group["weight_decay"],
        eps1=group["eps"][0], eps2=group["eps"][1], maximize=False,
    )  # fmt: skip
    if full is not parameter:
        shard(parameter).copy_(part_of(full, parameter))


def step_muon(parameter: Tensor, memory: Memory, group: Group) -> None:
    """One update of one matrix: its momentum with all singular values pushed towards 1 (Jordan et al. 2024).

    The momentum stays split as the parameter is. Newton-Schulz iterations need the whole: it is gathered in bfloat16,
    in which they compute, and every rank computes them (Liu et al. 2025, algorithm 1). That takes the memory of four
    whole copies of one matrix in bfloat16 for the time of its update.
    """
    part, grad, momentum = shard(parameter), shard(gradient(parameter)), shard(memory["momentum_buffer"])
    momentum.lerp_(grad, 1 - group["momentum"])
    direction = grad.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
    full = whole(like(parameter, direction.bfloat16()))
    orthogonal = _zeropower_via_newtonschulz(full, group["ns_coefficients"], group["ns_steps"], group["eps"])
    part.mul_(1 - group["lr"] * group["weight_decay"])
    part.add_(part_of(orthogonal, parameter), alpha=-_adjust_lr(group["lr"], group["adjust_lr_fn"], parameter.shape))
