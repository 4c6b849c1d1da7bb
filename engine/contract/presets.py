"""Model presets by name and size, and how a ``ModelSpec`` becomes a ``ModelShape``.

The number in a name is the parameter count with the vocabulary that the original was trained with (for
the small ones of our own: with 4,096 entries). The count that is shown to a person is always computed from the
actual shape (:mod:`engine.planner.shapes`).
"""

from __future__ import annotations

import msgspec

from engine.contract.errors import Problem, nearest
from engine.contract.limits import divisors
from engine.contract.shape import Mlp, ModelShape, Position
from engine.contract.spec import Family, ModelSpec


class Preset(msgspec.Struct, frozen=True, kw_only=True):
    """Dimensions of a known model; vocabulary and positions come from the data."""

    family: Family
    layers: int
    hidden: int
    heads: int = 1
    kv_heads: int = 1
    feed_forward: int = 0
    tied: bool = False
    rope_theta: float = 10_000.0
    source: str = ""
    """Where the dimensions are published; empty for our own."""


def _gpt2(layers: int, hidden: int, heads: int, source: str = "") -> Preset:
    return Preset(
        family="gpt2", layers=layers, hidden=hidden, heads=heads, kv_heads=heads,
        feed_forward=4 * hidden, tied=True, source=source,
    )  # fmt: skip


def _llama(
    layers: int, hidden: int, heads: int, kv_heads: int, feed_forward: int,
    tied: bool = False, rope_theta: float = 10_000.0, source: str = "",
) -> Preset:  # fmt: skip
    return Preset(
        family="llama", layers=layers, hidden=hidden, heads=heads, kv_heads=kv_heads,
        feed_forward=feed_forward, tied=tied, rope_theta=rope_theta, source=source,
    )  # fmt: skip


def _lstm(layers: int, hidden: int, tied: bool = True, source: str = "") -> Preset:
    return Preset(family="lstm", layers=layers, hidden=hidden, tied=tied, source=source)


_GPT2 = "Radford et al. 2019, table 2"
_GPT3 = "Brown et al. 2020, table 2.1"
_LLAMA1 = "Touvron et al. 2023a, table 2"
_LLAMA2 = "Touvron et al. 2023b"
_LLAMA3 = "Grattafiori et al. 2024, table 3"

PRESETS: dict[str, Preset] = {
    "llama-1m": _llama(4, 112, 4, 2, 304, tied=True),
    "llama-3m": _llama(6, 192, 6, 2, 512, tied=True),
    "llama-10m": _llama(7, 320, 5, 5, 896, tied=True),
    "llama-30m": _llama(9, 512, 8, 4, 1408, tied=True),
    "llama-100m": _llama(16, 768, 12, 4, 2048, tied=True),
    "llama-350m": _llama(28, 1024, 16, 8, 2816, tied=True),
    "llama-1b": _llama(16, 2048, 32, 8, 8192, True, 500_000.0, "Llama 3.2 model card"),
    "llama-3b": _llama(28, 3072, 24, 8, 8192, True, 500_000.0, "Llama 3.2 model card"),
    "llama-7b": _llama(32, 4096, 32, 32, 11008, source=_LLAMA1),
    "llama-8b": _llama(32, 4096, 32, 8, 14336, False, 500_000.0, _LLAMA3),
    "llama-13b": _llama(40, 5120, 40, 40, 13824, source=_LLAMA1),
    "llama-33b": _llama(60, 6656, 52, 52, 17920, source=_LLAMA1),
    "llama-70b": _llama(80, 8192, 64, 8, 28672, source=_LLAMA2),
    "llama-405b": _llama(126, 16384, 128, 8, 53248, False, 500_000.0, _LLAMA3),
    "gpt2-1m": _gpt2(4, 112, 4),
    "gpt2-3m": _gpt2(5, 192, 6),
    "gpt2-10m": _gpt2(7, 320, 5),
    "gpt2-30m": _gpt2(8, 512, 8),
    "gpt2-124m": _gpt2(12, 768, 12, _GPT2),
    "gpt2-355m": _gpt2(24, 1024, 16, _GPT2),
    "gpt2-774m": _gpt2(36, 1280, 20, _GPT2),
    "gpt2-1.5b": _gpt2(48, 1600, 25, _GPT2),
    "gpt3-2.7b": _gpt2(32, 2560, 32, _GPT3),
    "gpt3-6.7b": _gpt2(32, 4096, 32, _GPT3),
    "gpt3-13b": _gpt2(40, 5120, 40, "Brown et al. 2020, table 2.1, with the width 5120 that 40 heads of 128 need"),
    "gpt3-175b": _gpt2(96, 12288, 96, _GPT3),
    "lstm-1m": _lstm(2, 160),
    "lstm-3m": _lstm(2, 320),
    "lstm-10m": _lstm(2, 700),
    "lstm-66m": _lstm(2, 1500, tied=False, source="Zaremba et al. 2014, large"),
}


_COUNTS = (
    "layers", "layer_groups", "hidden", "heads", "kv_heads", "head_size", "feed_forward", "vocabulary", "positions",
)  # fmt: skip
_POSITIONS: dict[Family, Position] = {"gpt2": "learned", "llama": "rotary", "lstm": "none"}
_MLPS: dict[Family, Mlp] = {"gpt2": "gelu", "llama": "swiglu", "lstm": "none"}


def resolve_shape(model: ModelSpec, *, vocabulary: int, sequence_length: int) -> ModelShape:
    """Decide every dimension: what the spec says, else what the preset says, else the family's habit.

    ``vocabulary`` is the tokenizer's size, used where ``model.vocabulary`` is None.
    Raises KeyError for an unknown preset: run :func:`shape_problems` first.
    """
    preset = PRESETS[model.preset]
    family = model.family or preset.family
    other_family = family != preset.family
    hidden = model.hidden or preset.hidden
    heads = 1 if family == "lstm" else model.heads or preset.heads
    follows_preset = not other_family and model.hidden is None
    if family == "lstm":
        feed_forward = 0
    elif model.feed_forward is not None:
        feed_forward = model.feed_forward
    elif follows_preset:
        feed_forward = preset.feed_forward
    else:
        # A GELU MLP is four times as wide as the stream; SwiGLU's three matrices hold as much at 8/3.
        feed_forward = 4 * hidden if family == "gpt2" else -(-8 * hidden // 3 // 64) * 64
    if model.kv_heads is not None:
        kv_heads = model.kv_heads
    elif model.heads is None and not other_family:
        kv_heads = preset.kv_heads
    else:
        kv_heads = heads
    is_gpt2 = family == "gpt2"
    return ModelShape(
        family=family,
        layers=model.layers or preset.layers,
        layer_groups=model.layer_groups,
        hidden=hidden,
        heads=heads,
        kv_heads=1 if family == "lstm" else kv_heads,
        head_size=1 if family == "lstm" else model.head_size or hidden // heads,
        feed_forward=feed_forward,
        vocabulary=model.vocabulary or vocabulary,
        positions=model.positions or sequence_length,
        norm="layernorm" if is_gpt2 else "rmsnorm",
        position=_POSITIONS[family],
        mlp=_MLPS[family],
        bias=family != "llama" if model.bias is None else model.bias,
        tied_embeddings=preset.tied if model.tied_embeddings is None else model.tied_embeddings,
        dropout=model.dropout or 0.0,
        rope_theta=model.rope_theta or preset.rope_theta,
    )


def shape_problems(model: ModelSpec) -> list[Problem]:
    """What is wrong with the dimensions of a model, whatever data and machine it meets."""
    if model.preset not in PRESETS:
        hint = nearest(model.preset, list(PRESETS))
        return [Problem(field="model.preset", message=f"no preset is called {model.preset!r}", hint=hint)]
    problems = [
        Problem(field=f"model.{field}", message=f"must be at least 1, not {value}", hint="give a positive count")
        for field in _COUNTS
        if (value := getattr(model, field)) is not None and value < 1
    ]
    if model.dropout is not None and not 0 <= model.dropout < 1:
        problems.append(
            Problem(field="model.dropout", message=f"must be from 0 to below 1, not {model.dropout}", hint="0 is off")
        )
    if model.rope_theta is not None and not model.rope_theta > 0:
        problems.append(Problem(field="model.rope_theta", message=f"must be above 0, not {model.rope_theta}"))
    return problems or _sharing_problems(model) + _division_problems(model)


def _sharing_problems(model: ModelSpec) -> list[Problem]:
    preset = PRESETS[model.preset]
    layers = model.layers or preset.layers
    if model.layer_groups is None:
        return []
    if (model.family or preset.family) == "lstm":
        message = "the layers of an LSTM are one operator, and cannot share their weights"
        hint = "leave layer_groups out, or choose the llama or gpt2 family"
        return [Problem(field="model.layer_groups", message=message, hint=hint)]
    if model.layer_groups > layers:
        message = f"{layers} layers cannot use {model.layer_groups} sets of weights"
        hint = f"choose from 1 (all layers share) to {layers} (none do)"
        return [Problem(field="model.layer_groups", message=message, hint=hint)]
    return []


def _division_problems(model: ModelSpec) -> list[Problem]:
    shape = resolve_shape(model, vocabulary=1, sequence_length=1)
    problems = []
    if shape.family == "lstm":
        return []
    if model.head_size is None and shape.hidden % shape.heads:
        problems.append(
            Problem(
                field="model.heads",
                message=f"hidden size {shape.hidden} does not divide into {shape.heads} heads",
                hint="choose heads from " + ", ".join(map(str, divisors(shape.hidden, 64))),
            )
        )
    if shape.heads % shape.kv_heads:
        problems.append(
            Problem(
                field="model.kv_heads",
                message=f"{shape.heads} heads cannot share {shape.kv_heads} key/value heads evenly",
                hint="choose kv_heads from " + ", ".join(map(str, divisors(shape.heads, shape.heads))),
            )
        )
    if shape.family == "llama" and not problems and shape.head_size % 2:
        problems.append(
            Problem(
                field="model.head_size",
                message=f"rotary positions need an even head size, not {shape.head_size}",
                hint="change hidden or heads so that hidden / heads is even",
            )
        )
    return problems
