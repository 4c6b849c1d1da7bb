"""A network and its optimiser as flat dictionaries of named tensors, and back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from engine.contract.errors import CheckpointError


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, each once: a tied table goes by its first name."""
    seen: set[int] = set()
    tensors: dict[str, Tensor] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) not in seen:
            seen.add(id(value))
            tensors[name] = value.detach()
    return tensors


@torch.no_grad()
def restore_model(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy ``tensors`` into ``model``. Raises CheckpointError naming the first tensor that does not fit."""
    own = model_tensors(model)
    for name in sorted(own.keys() ^ tensors.keys()):
        where = "the checkpoint lacks" if name in own else "the model has no"
        raise CheckpointError("The checkpoint is of another model", f"{where} tensor {name}")
    for name, target in own.items():
        if target.shape != tensors[name].shape:
            raise CheckpointError(
                "The checkpoint is of another model",
                f"{name} is {tuple(tensors[name].shape)} in the checkpoint and {tuple(target.shape)} in the model",
            )
        target.copy_(tensors[name])


def optimiser_tensors(model: nn.Module, optimiser: Optimizer) -> dict[str, Tensor]:
    """The optimiser's memory as ``<parameter>:<what>``, for example ``head.weight:exp_avg``.

    What the spec says (rates, decay, betas) is not in it: a resumed run takes that from its spec.
    """
    tensors = {}
    for name, parameter in model.named_parameters():
        for what, value in optimiser.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{name}:{what}"] = value.detach()
    return tensors


def restore_optimiser(model: nn.Module, optimiser: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give ``optimiser`` the memory in ``tensors``. Raises CheckpointError for parameters it does not have."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    places: dict[str, int] = {}
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            places[names[id(parameter)]] = len(places)  # torch numbers parameters in the order of the groups
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, what = key.rpartition(":")
        if name not in places:
            raise CheckpointError("The checkpoint is of another model", f"the optimiser has no parameter {name}")
        state.setdefault(places[name], {})[what] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
