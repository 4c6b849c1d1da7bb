"""One optimiser over parameters that may be plain or split, on any meshes, with an algorithm for each of its groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from engine.training.algorithms import Group, first_memory, step_adafactor, step_elementwise, step_muon


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
