"""First weights of a part of a model, whatever its parameters are split over."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from engine.contract.shape import ModelShape
from engine.model.build import draw


@torch.no_grad()
def materialise(part: nn.Module, shape: ModelShape, seed: int, device: torch.device) -> None:
    """Give the parameters of ``part``, on the meta device until now, memory on ``device`` and their first values.

    Each rank draws every whole parameter on the CPU, one after the other, and keeps its piece: so the model is the same
    under every layout.
    """
    part.to_empty(device=device)
    retie = getattr(part, "tie_weights", None)
    if retie is not None:
        retie()
    for name, parameter in part.named_parameters():
        whole = torch.empty(parameter.shape, dtype=torch.float32)
        draw(whole_name(name, shape), whole, shape, seed)
        fill(parameter, whole)


def fill(parameter: torch.Tensor, whole: torch.Tensor) -> None:
    """Copy into ``parameter`` its piece of ``whole``."""
    if isinstance(parameter, DTensor):
        piece = distribute_tensor(
            whole.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
        )
        parameter.to_local().copy_(piece.to_local())
    else:
        parameter.copy_(whole)


def whole_name(name: str, shape: ModelShape) -> str:
    """The name that a parameter of a part has in the whole model: the copy of a tied table goes by its first name."""
    if shape.tied_embeddings and name == "head.weight":
        return "embedding.weight"
    return name
