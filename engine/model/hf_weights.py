"""Names and layouts of weights: Hugging Face's GPT-2 and Llama, and ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from engine.contract.errors import ModelError
from engine.contract.shape import ModelShape
from engine.model.build import build_model

Weights = dict[str, Tensor]

_LAYER_PREFIX = {"gpt2": "transformer.h", "llama": "model.layers"}
_OUTSIDE = {
    "gpt2": {
        "embedding": "transformer.wte",
        "position_embedding": "transformer.wpe",
        "norm": "transformer.ln_f",
        "head": "lm_head",
    },
    "llama": {"embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"},
}
_IN_LAYER = {
    "gpt2": {
        "attention_norm": "ln_1",
        "attention.output": "attn.c_proj",
        "mlp_norm": "ln_2",
        "mlp.up": "mlp.c_fc",
        "mlp.down": "mlp.c_proj",
    },
    "llama": {
        "attention_norm": "input_layernorm",
        "attention.query": "self_attn.q_proj",
        "attention.key": "self_attn.k_proj",
        "attention.value": "self_attn.v_proj",
        "attention.output": "self_attn.o_proj",
        "mlp_norm": "post_attention_layernorm",
        "mlp.gate": "mlp.gate_proj",
        "mlp.up": "mlp.up_proj",
        "mlp.down": "mlp.down_proj",
    },
}
_BUFFERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
"""Constants that older files carry along with the weights."""
_TRANSPOSED = ("attn.c_proj", "mlp.c_fc", "mlp.c_proj")
"""GPT-2's matrices are (in, out): transformers kept the original's ``Conv1D``."""


def to_huggingface(weights: Mapping[str, Tensor], shape: ModelShape) -> Weights:
    """Our weights under Hugging Face's names and in its layouts; without the head if it is tied."""
    result: Weights = {}
    for name, (theirs, transposed) in _names(shape).items():
        if name == "head.weight" and shape.tied_embeddings:
            continue
        if name in weights:
            tensor = weights[name].detach().cpu()
            result[theirs] = (tensor.T if transposed else tensor).contiguous()
        elif shape.family == "gpt2":  # its file format has a bias everywhere: zero is none
            result[theirs] = torch.zeros(weights[name.removesuffix(".bias") + ".weight"].shape[0])
    if shape.family == "gpt2":
        for number in range(shape.layers):
            result |= _fuse(weights, shape, number)
    return result


def from_huggingface(theirs: Mapping[str, Tensor], shape: ModelShape, origin: str) -> Weights:
    """Hugging Face's weights under our names, ready for ``load_state_dict`` of ``build_model(shape)``.

    Raises ModelError, naming ``origin``, for weights that are missing, left over, or of another size.
    """
    left = {_full_name(name, shape): tensor for name, tensor in theirs.items() if not name.endswith(_BUFFERS)}
    if shape.tied_embeddings:
        left.pop("lm_head.weight", None)
    result: Weights = {}
    for name, (their_name, transposed) in _names(shape).items():
        if their_name in left:
            tensor = left.pop(their_name)
            result[name] = (tensor.T if transposed and tensor.ndim == 2 else tensor).contiguous()
    if shape.family == "gpt2":
        for number in range(shape.layers):
            result |= _split(left, shape, number)
    if shape.tied_embeddings and "embedding.weight" in result:
        result["head.weight"] = result["embedding.weight"]
    if left:
        raise _mismatch(origin, f"unknown weights: {_some(left)}")
    return _checked(result, shape, origin)


def _checked(weights: Weights, shape: ModelShape, origin: str) -> Weights:
    with torch.device("meta"):
        expected = build_model(shape, seed=None).state_dict()
    for name, like in expected.items():
        # Llama's files may have biases in the attention alone (or in the MLP alone): zero is none.
        if name not in weights and shape.family == "llama" and name.endswith(".bias"):
            weights[name] = torch.zeros(like.shape)
    if missing := [name for name in expected if name not in weights]:
        raise _mismatch(origin, f"missing weights: {_some(missing)}")
    for name, like in expected.items():
        if weights[name].shape != like.shape:
            raise _mismatch(origin, f"{name} is {tuple(weights[name].shape)}, not {tuple(like.shape)}")
    return {name: weights[name] for name in expected}


def _names(shape: ModelShape) -> dict[str, tuple[str, bool]]:
    """Our name -> Hugging Face's name, and whether it is transposed; GPT-2's fused matrix is not among them."""
    names: dict[str, tuple[str, bool]] = {}
    for ours, theirs in _modules(shape):
        for kind in ("weight", "bias"):
            transposed = kind == "weight" and shape.family == "gpt2" and theirs.endswith(_TRANSPOSED)
            names[f"{ours}.{kind}"] = (f"{theirs}.{kind}", transposed)
    without_bias = {"embedding", "position_embedding", "head"}
    return {
        ours: theirs
        for ours, theirs in names.items()
        if not (ours.endswith(".bias") and ours.removesuffix(".bias") in without_bias)
    }


def _modules(shape: ModelShape) -> Iterator[tuple[str, str]]:
    yield from _OUTSIDE[shape.family].items()
    for number in range(shape.layers):
        for ours, theirs in _IN_LAYER[shape.family].items():
            yield f"layers.{number}.{ours}", f"{_LAYER_PREFIX[shape.family]}.{number}.{theirs}"


def _fuse(weights: Mapping[str, Tensor], shape: ModelShape, number: int) -> Weights:
    """GPT-2's one matrix for queries, keys and values; shared heads are written out once per query head."""
    parts: dict[str, list[Tensor]] = {"weight": [], "bias": []}
    for part in ("query", "key", "value"):
        weight = weights[f"layers.{number}.attention.{part}.weight"].detach().cpu()
        bias = weights.get(f"layers.{number}.attention.{part}.bias")
        bias = torch.zeros(weight.shape[0]) if bias is None else bias.detach().cpu()
        repeats = shape.heads * shape.head_size // weight.shape[0]
        for kind, tensor in (("weight", weight), ("bias", bias)):
            heads = tensor.view(-1, shape.head_size, *tensor.shape[1:]).repeat_interleave(repeats, dim=0)
            parts[kind].append(heads.flatten(0, 1))
    name = f"{_LAYER_PREFIX['gpt2']}.{number}.attn.c_attn"
    return {f"{name}.weight": torch.cat(parts["weight"]).T.contiguous(), f"{name}.bias": torch.cat(parts["bias"])}


def _split(left: Weights, shape: ModelShape, number: int) -> Weights:
    name = f"{_LAYER_PREFIX['gpt2']}.{number}.attn.c_attn"
    result: Weights = {}
    for kind in ("weight", "bias"):
        fused = left.pop(f"{name}.{kind}", None)
        if fused is None or fused.shape[-1] != 3 * shape.hidden:
            continue  # reported as missing
        for part, tensor in zip(("query", "key", "value"), fused.chunk(3, dim=-1), strict=True):
            result[f"layers.{number}.attention.{part}.{kind}"] = (tensor.T if kind == "weight" else tensor).contiguous()
    return result


def _full_name(name: str, shape: ModelShape) -> str:
    """Files of the bare network, without an output head, leave the first part of the names out."""
    prefix = _LAYER_PREFIX[shape.family].partition(".")[0] + "."
    return name if name.startswith((prefix, "lm_head.")) else prefix + name


def _some(names: Mapping[str, Tensor] | list[str]) -> str:
    shown = [repr(name) for name in list(names)[:3]]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _mismatch(origin: str, what: str) -> ModelError:
    return ModelError("Weights and config.json do not belong together", f"{origin} has {what}", "Copy the folder anew")
