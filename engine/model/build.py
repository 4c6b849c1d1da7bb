"""From a shape to a network with deterministic first weights."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor, nn

from engine.contract.shape import ModelShape
from engine.model.decoder import Decoder
from engine.model.lstm import LstmModel

LanguageModel = Decoder | LstmModel


def build_model(shape: ModelShape, *, seed: int | None, device: torch.device | str | None = None) -> LanguageModel:
    """The network of ``shape``: ``forward(tokens (batch, seq)) -> logits (batch, seq, vocabulary)``.

    With a seed, weights are drawn on the CPU in float32 and moved to ``device`` (default: the CPU), so that they are
    the same everywhere; the global random state is left alone. With ``seed=None`` they are left
    uninitialised on ``device`` (default: torch's current default device, which may be ``meta``).
    """
    with torch.device("meta"):
        model: LanguageModel = LstmModel(shape) if shape.family == "lstm" else Decoder(shape)
    if device is None:
        device = torch.get_default_device() if seed is None else "cpu"
    if torch.device(device).type == "meta":
        return model
    model.to_empty(device=device if seed is None else "cpu")
    model.tie_weights()
    if seed is None:
        return model
    initialise(model, shape, seed)
    return model.to(device)


@torch.no_grad()
def initialise(model: nn.Module, shape: ModelShape, seed: int) -> None:
    """Draw all weights of ``model`` in place.

    Each parameter has its own random stream, made of the seed and its name: a part of the network (a
    stage of a pipeline) gets the very weights that it has in the whole.
    """
    for name, parameter in model.named_parameters():
        draw(name, parameter, shape, seed)


@torch.no_grad()
def draw(name: str, parameter: Tensor, shape: ModelShape, seed: int) -> None:
    """Draw the first values of the whole parameter ``name`` in place."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator(parameter.device)
    generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    if shape.family == "lstm":
        _initialise_lstm(name, parameter, shape, generator)
    else:
        _initialise_decoder(name, parameter, shape, generator)


def _initialise_decoder(name: str, parameter: Tensor, shape: ModelShape, generator: torch.Generator) -> None:
    """GPT-2's scheme (Radford et al. 2019, section 2.3): normal, residual projections shrunk with the depth.

    Its 0.02 is right up to a width of 1000; beyond, sqrt(2 / (5 hidden)) (Nguyen & Salazar 2019) keeps the first
    logits small, so that the first loss is that of a uniform guess, ln(vocabulary).
    """
    if name.endswith(".bias"):
        parameter.zero_()
    elif parameter.ndim == 1:
        parameter.fill_(1.0)
    else:
        deviation = min(0.02, math.sqrt(2 / (5 * shape.hidden)))
        if name.endswith(("attention.output.weight", "mlp.down.weight")):
            deviation /= math.sqrt(2 * shape.layers)
        parameter.normal_(0.0, deviation, generator=generator)


def _initialise_lstm(name: str, parameter: Tensor, shape: ModelShape, generator: torch.Generator) -> None:
    """Uniform within 1/sqrt(hidden), tables within 0.1 (Merity et al. 2018).

    Forget gates start open (Jozefowicz et al. 2015).
    """
    if "bias" in name:
        parameter.zero_()
        if name.startswith("cells.bias_ih"):
            # The gates lie in the order input, forget, cell, output.
            parameter[shape.hidden : 2 * shape.hidden] = 1.0
        return
    bound = 1 / math.sqrt(shape.hidden) if name.startswith("cells.") else 0.1
    parameter.uniform_(-bound, bound, generator=generator)
