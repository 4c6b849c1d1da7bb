"""Optimisers by name, over the parts of the network that a rank has, with weight decay where it belongs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from engine.contract.spec import OptimSpec
from engine.training.algorithms import (
    ADAFACTOR,
    MUON,
    Group,
    first_memory,
    step_adafactor,
    step_elementwise,
    step_muon,
)

FUSED_DEVICES = frozenset({"cpu", "cuda", "mps"})
"""Where torch updates all parameters in one kernel."""
OUTER_LAYER = "head"
"""The output layer's name: a matrix, but not a hidden one."""


class ShardedOptimizer(Optimizer):
    """torch's algorithms over parameters that may be plain, or DTensors on any meshes, in one optimiser.

    Each group names its ``algorithm``. State has torch's names; what is as large as its parameter is split as the
    parameter is, the rest is plain and the same on every rank that has a part of the parameter.
    """

    def __init__(self, groups: list[Group]) -> None:
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]  # no loss is returned
        """Update every parameter that has a gradient. With shards, to be called on all ranks."""
        assert closure is None
        for group in self.param_groups:
            self._update([parameter for parameter in group["params"] if parameter.grad is not None], group)

    def _update(self, parameters: list[Tensor], group: Group) -> None:
        if group["algorithm"] == "adafactor":
            for parameter in parameters:
                step_adafactor(parameter, self.state[parameter], group)
            return
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = first_memory(parameter, group)
        if group["algorithm"] == "muon":
            for parameter in parameters:
                step_muon(parameter, self.state[parameter], group)
        elif parameters:
            step_elementwise(parameters, [self.state[parameter] for parameter in parameters], group)


def build_optimiser(parts: nn.Module | Sequence[nn.Module], optim: OptimSpec, device: torch.device) -> Optimizer:
    """The optimiser that ``optim`` names over the parameters of ``parts``, fused where ``device`` has that.

    ``parts`` is the network, or what a rank has of it: then each parameter's name must be that in the whole.
    """
    return ShardedOptimizer(
        [
            {"lr": optim.lr, **_settings(algorithm, optim, device), **group}
            for algorithm, group in _algorithm_groups(parts, optim)
        ]
    )


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
