"""Optimisers by name, over the parts of the network that a rank has, with weight decay where it belongs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from engine.contract.errors import RunError
from engine.contract.spec import OptimSpec
from engine.training.algorithms import ADAFACTOR, MUON, Group
from engine.training.offload import OFFLOADABLE, OffloadedOptimizer
from engine.training.sharded import ShardedOptimizer

FUSED_DEVICES = frozenset({"cpu", "cuda", "mps"})
"""Where torch updates all parameters in one kernel."""
OUTER_LAYER = "head"
"""The output layer's name: a matrix, but not a hidden one."""


def build_optimiser(
    parts: nn.Module | Sequence[nn.Module], optim: OptimSpec, device: torch.device, *, offload: bool = False
) -> Optimizer:
    """The optimiser that ``optim`` names over the parameters of ``parts``, fused where it computes and torch has that.

    ``parts`` is the network, or what a rank has of it: then each parameter's name must be that in the whole. With
    ``offload``, state lies and updates are computed on the host. Raises RunError for an algorithm that cannot do that.
    """
    if offload and optim.name not in OFFLOADABLE:
        raise RunError(
            f"The state of {optim.name} cannot be offloaded",
            f"layout.offload_optimizer is set, and {optim.name} needs whole matrices on the devices",
            "Choose " + ", ".join(sorted(OFFLOADABLE)) + ", or leave layout.offload_optimizer out",
        )
    where = torch.device("cpu") if offload else device
    groups = [
        {"lr": optim.lr, **_settings(algorithm, optim, where), **group}
        for algorithm, group in _algorithm_groups(parts, optim)
    ]
    return OffloadedOptimizer(groups) if offload else ShardedOptimizer(groups)


def _algorithm_groups(parts: nn.Module | Sequence[nn.Module], optim: OptimSpec) -> list[tuple[str, Group]]:
    """Muon is for hidden matrices; all else is AdamW's, as is the practice (Jordan et al. 2024)."""
    groups = parameter_groups(parts, optim.weight_decay)
    if optim.name != "muon":
        return [(optim.name, group) for group in groups]
    hidden = hidden_matrices(parts)
    split: list[tuple[str, Group]] = []
    for group in groups:
        for algorithm, wanted in (("muon", True), ("adamw", False)):
            chosen = [parameter for parameter in group["params"] if (id(parameter) in hidden) is wanted]
            if chosen:
                split.append((algorithm, {**group, "params": chosen}))
    return split


def _settings(algorithm: str, optim: OptimSpec, device: torch.device) -> Group:
    """What a group of ``algorithm`` holds besides parameters, rate and decay."""
    common: Group = {"algorithm": algorithm}
    match algorithm:
        case "muon":
            return common | MUON
        case "adafactor":
            return common | ADAFACTOR
        case "sgd":
            return common | {"fused": has_fused(device), "momentum": optim.momentum, "nesterov": optim.nesterov}
        case _:
            return common | {"fused": has_fused(device), "betas": (optim.beta1, optim.beta2), "eps": optim.eps}


def has_fused(device: torch.device) -> bool:
    """Whether this build of torch has the fused kernels for ``device``; where not, the plain ones compute the same."""
    if device.type not in FUSED_DEVICES:
        return False
    trial = torch.zeros(1, device=device)
    trial.grad = torch.zeros_like(trial)
    try:
        AdamW([trial], fused=True).step()
    except RuntimeError:
        return False
    return True


def parameter_groups(parts: nn.Module | Sequence[nn.Module], weight_decay: float) -> list[Group]:
    """Two groups: matrices (embeddings included) decay, vectors (norms and biases) do not.

    Decaying a gain or a bias pulls it from where it has to be without restraining what the model can fit.
    A parameter that is in several parts, or several times in one, is in its group once.
    """
    parameters = {
        id(parameter): parameter
        for part in _as_list(parts)
        for parameter in part.parameters()
        if parameter.requires_grad
    }.values()
    groups: list[Group] = [
        {"params": [parameter for parameter in parameters if parameter.ndim >= 2], "weight_decay": weight_decay},
        {"params": [parameter for parameter in parameters if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def hidden_matrices(parts: nn.Module | Sequence[nn.Module]) -> set[int]:
    """The ``id`` of each matrix between the embeddings and the output layer, wherever in the network a part lies."""
    hidden: set[int] = set()
    outer: set[int] = set()
    for part in _as_list(parts):
        for name, module in part.named_modules():
            is_outer = isinstance(module, nn.Embedding) or name.rpartition(".")[2] == OUTER_LAYER
            for parameter in module.parameters(recurse=False):
                if is_outer:
                    outer.add(id(parameter))
                elif parameter.ndim == 2:
                    hidden.add(id(parameter))
    return hidden - outer


def _as_list(parts: nn.Module | Sequence[nn.Module]) -> list[nn.Module]:
    return [parts] if isinstance(parts, nn.Module) else list(parts)


def set_learning_rate(optimiser: Optimizer, rate: float) -> None:
    """Use ``rate`` for the next update, in every group."""
    for group in optimiser.param_groups:
        group["lr"] = rate
