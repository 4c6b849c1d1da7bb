"""The parts of a network on one rank, and their optimiser, as named tensors.

A rank holds one part of the network, or one for each of its pipeline stages; names are those of the whole network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from engine.contract.errors import CheckpointError
from engine.model.decoder import Decoder

HEAD, EMBEDDING = "head.weight", "embedding.weight"


class Named(NamedTuple):
    """A tensor of this rank under its name in the whole network."""

    name: str
    tensor: Tensor
    """Detached from autograd; changing it changes the network."""
    is_copy: bool
    """Whether another tensor, maybe on another rank, is the one to be saved: a table tied across pipeline stages."""


def model_tensors(parts: Sequence[nn.Module] | nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, each once, detached."""
    found: dict[str, Tensor] = {}
    for name, value, _ in every_model_tensor([parts] if isinstance(parts, nn.Module) else parts):
        found.setdefault(name, value)
    return found


def every_model_tensor(parts: Sequence[nn.Module]) -> list[Named]:
    """Parameters and persistent buffers with all copies of a tied table."""
    return [Named(name, value.detach(), is_copy) for name, value, is_copy in _members(parts)]


def optimiser_tensors(parts: Sequence[nn.Module], optimiser: Optimizer) -> dict[str, Tensor]:
    """The optimiser's memory as ``<parameter>:<what>``, for example ``head.weight:exp_avg``.

    What the spec says (rates, decay, betas) is not in it: a resumed run takes that from its spec.
    """
    found: dict[str, Tensor] = {}
    for name, value, _ in every_optimiser_tensor(parts, optimiser):
        found.setdefault(name, value)
    return found


def every_optimiser_tensor(parts: Sequence[nn.Module], optimiser: Optimizer) -> list[Named]:
    """The optimiser's memory with that of all copies of a tied table."""
    return [
        Named(f"{name}:{what}", value.detach(), is_copy)
        for name, parameter, is_copy in _members(parts)
        for what, value in optimiser.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    ]


def match_optimiser(parts: Sequence[nn.Module], optimiser: Optimizer, saved: frozenset[str]) -> None:
    """Give ``optimiser`` memory of the form that it has after an update, for the tensors named in ``saved``.

    The values are still to be read. A parameter that had no memory when it was saved has none again. Raises
    CheckpointError where the optimiser keeps other things of a parameter than the saved one did.
    """
    if saved and not optimiser.state:
        _make_memory(optimiser)
    owners: dict[str, set[str]] = {}
    for key in saved:
        owners.setdefault(key.rpartition(":")[0], set()).add(key)
    for name, parameter, _ in _members(parts):
        memory = optimiser.state.get(parameter, {})
        if name not in owners:
            optimiser.state.pop(parameter, None)
            continue
        own = {f"{name}:{what}" for what, value in memory.items() if isinstance(value, Tensor)}
        for key in sorted(own ^ owners[name]):
            where = "the checkpoint lacks" if key in own else "the optimiser has no"
            raise CheckpointError("The checkpoint is of another optimiser", f"{where} tensor {key}")


def _make_memory(optimiser: Optimizer) -> None:
    """Let ``optimiser`` make its memory by an update that changes nothing: with gradients and rates of zero.

    Only the optimiser knows on which device, in which type and with which placement it keeps what. The weights are
    read after this, so that not even a rounding of it stays. After ``torch.distributed.checkpoint.state_dict``.
    """
    rates = [group["lr"] for group in optimiser.param_groups]
    for group in optimiser.param_groups:
        group["lr"] = torch.zeros_like(group["lr"]) if isinstance(group["lr"], Tensor) else 0.0
        for parameter in group["params"]:
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    for group, rate in zip(optimiser.param_groups, rates, strict=True):
        group["lr"] = rate


def _members(parts: Sequence[nn.Module]) -> Iterator[tuple[str, Tensor, bool]]:
    """Name, parameter or buffer, whether it is a copy. Asking for the state makes fully sharded modules reshard."""
    seen: set[int] = set()
    for part in parts:
        is_tied = isinstance(part, Decoder) and part.shape.tied_embeddings
        for name, value in part.state_dict(keep_vars=True).items():
            if id(value) in seen:
                continue  # two names of one tensor
            seen.add(id(value))
            is_copy = is_tied and name == HEAD
            yield (EMBEDDING if is_copy else name), value, is_copy
