"""Hugging Face ``config.json`` of the two families, to and from a shape."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from engine.contract.errors import ModelError
from engine.contract.records import UNREADABLE
from engine.contract.shape import ModelShape, RopeScaling

ARCHITECTURES = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM"}
"""Our families and the class that transformers builds for each."""

_Count = Annotated[int, msgspec.Meta(ge=1)]
_Positive = Annotated[float, msgspec.Meta(gt=0)]


class _Kind(msgspec.Struct):
    model_type: str = ""
    architectures: list[str] | None = None
    quantization_config: Any = None


class _Gpt2(msgspec.Struct, kw_only=True):
    """Fields and defaults of transformers' ``GPT2Config``."""

    vocab_size: _Count = 50257
    n_positions: _Count = 1024
    n_embd: _Count = 768
    n_layer: _Count = 12
    n_head: _Count = 12
    n_inner: _Count | None = None
    activation_function: str = "gelu_new"
    resid_pdrop: float = 0.1
    layer_norm_epsilon: _Positive = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True


class _Rope(msgspec.Struct, kw_only=True):
    rope_type: str | None = None
    type: str | None = None
    rope_theta: _Positive | None = None
    factor: _Positive = 1.0
    low_freq_factor: _Positive = 1.0
    high_freq_factor: _Positive = 4.0
    original_max_position_embeddings: _Count | None = None


class _Llama(msgspec.Struct, kw_only=True):
    """Fields and defaults of transformers' ``LlamaConfig``."""

    vocab_size: _Count = 32000
    hidden_size: _Count = 4096
    intermediate_size: _Count = 11008
    num_hidden_layers: _Count = 32
    num_attention_heads: _Count = 32
    num_key_value_heads: _Count | None = None
    head_dim: _Count | None = None
    hidden_act: str = "silu"
    max_position_embeddings: _Count = 2048
    rms_norm_eps: _Positive = 1e-6
    tie_word_embeddings: bool = False
    rope_theta: _Positive | None = None
    rope_scaling: _Rope | None = None
    rope_parameters: _Rope | None = None
    """Where transformers 5 writes what the two fields above held before."""
    attention_bias: bool = False
    mlp_bias: bool = False


def shape_of(config: bytes, origin: str) -> ModelShape:
    """The shape that the bytes of a ``config.json`` describe; ``origin`` names it in errors.

    Raises ModelError for another architecture (naming it) and for what our networks do not do.
    """
    try:
        kind = msgspec.json.decode(config, type=_Kind)
        architecture = (kind.architectures or [""])[0]
        family = next((ours for ours, theirs in ARCHITECTURES.items() if theirs == architecture), None)
        if not architecture and kind.model_type in ARCHITECTURES:
            family = kind.model_type
        if family is None:
            raise ModelError(
                f"{architecture or kind.model_type or 'a network without a name'!r} is not supported",
                f"{origin} is of another architecture than " + " and ".join(ARCHITECTURES.values()),
                "Choose a GPT-2 or Llama checkpoint, or convert this one to one of them",
            )
        if kind.quantization_config is not None:
            raise _refused(origin, "quantised weights", "Choose the checkpoint in its original precision")
        if family == "gpt2":
            return _gpt2_shape(msgspec.json.decode(config, type=_Gpt2), origin)
        return _llama_shape(msgspec.json.decode(config, type=_Llama), origin)
    except UNREADABLE as error:
        raise ModelError("A model's config.json cannot be read", f"{origin}: {error}", "Copy it anew") from None


def _gpt2_shape(config: _Gpt2, origin: str) -> ModelShape:
    if config.activation_function not in {"gelu_new", "gelu_pytorch_tanh"}:
        raise _refused(origin, f"activation_function {config.activation_function!r} instead of 'gelu_new'")
    if not config.scale_attn_weights or config.scale_attn_by_inverse_layer_idx:
        raise _refused(origin, "another scaling of attention than GPT-2's")
    if config.add_cross_attention:
        raise _refused(origin, "cross-attention")
    _divides(origin, "n_embd", config.n_embd, "n_head", config.n_head)
    return ModelShape(
        family="gpt2", layers=config.n_layer, hidden=config.n_embd, heads=config.n_head, kv_heads=config.n_head,
        head_size=config.n_embd // config.n_head, feed_forward=config.n_inner or 4 * config.n_embd,
        vocabulary=config.vocab_size, positions=config.n_positions, norm="layernorm", position="learned",
        mlp="gelu", bias=True, tied_embeddings=config.tie_word_embeddings, dropout=config.resid_pdrop,
        norm_eps=config.layer_norm_epsilon,
    )  # fmt: skip


def _llama_shape(config: _Llama, origin: str) -> ModelShape:
    if config.hidden_act not in {"silu", "swish"}:
        raise _refused(origin, f"hidden_act {config.hidden_act!r} instead of 'silu'")
    kv_heads = config.num_key_value_heads or config.num_attention_heads
    _divides(origin, "num_attention_heads", config.num_attention_heads, "num_key_value_heads", kv_heads)
    if config.head_dim is None:
        _divides(origin, "hidden_size", config.hidden_size, "num_attention_heads", config.num_attention_heads)
    head_size = config.head_dim or config.hidden_size // config.num_attention_heads
    if head_size % 2:
        raise _refused(origin, f"an odd head size, {head_size}")
    rope = config.rope_parameters or config.rope_scaling
    theta = (rope.rope_theta if rope else None) or config.rope_theta or 10_000.0
    return ModelShape(
        family="llama", layers=config.num_hidden_layers, hidden=config.hidden_size,
        heads=config.num_attention_heads, kv_heads=kv_heads, head_size=head_size,
        feed_forward=config.intermediate_size, vocabulary=config.vocab_size, positions=config.max_position_embeddings,
        norm="rmsnorm", position="rotary", mlp="swiglu", bias=config.attention_bias or config.mlp_bias,
        tied_embeddings=config.tie_word_embeddings, rope_theta=theta,
        rope_scaling=_rope_scaling(rope, config.max_position_embeddings, origin), norm_eps=config.rms_norm_eps,
    )  # fmt: skip


def _rope_scaling(rope: _Rope | None, positions: int, origin: str) -> RopeScaling | None:
    kind = "default" if rope is None else rope.rope_type or rope.type or "default"
    if rope is None or kind == "default":
        return None
    if kind != "llama3":
        raise _refused(origin, f"rotary scaling {kind!r}; only 'llama3' is known here")
    if rope.high_freq_factor <= rope.low_freq_factor:
        raise _refused(origin, "a high_freq_factor that is not above the low_freq_factor")
    return RopeScaling(
        factor=rope.factor,
        low_frequency_factor=rope.low_freq_factor,
        high_frequency_factor=rope.high_freq_factor,
        original_positions=rope.original_max_position_embeddings or positions,
    )


def _divides(origin: str, name: str, number: int, divisor_name: str, divisor: int) -> None:
    if number % divisor:
        raise ModelError(
            "A model's config.json contradicts itself", f"{origin}: {name} {number}, but {divisor_name} {divisor}"
        )


def _refused(origin: str, what: str, hint: str = "Choose another checkpoint") -> ModelError:
    return ModelError("A model that is not supported", f"{origin} has {what}", hint)


def config_of(shape: ModelShape, *, dtype: str, eos_id: int | None) -> dict[str, Any]:
    """``config.json`` of ``shape``, for transformers 4 and 5 alike.

    Raises ModelError for shapes that no Hugging Face architecture of our two families has.
    """
    if shape.family not in ARCHITECTURES:
        raise ModelError(
            f"A model of the family {shape.family!r} cannot be exported",
            "Hugging Face's transformers has no such network",
            "Its weights are in the checkpoints of the run",
        )
    if shape.weight_sets != shape.layers:
        raise ModelError(
            "A model whose layers share weights cannot be exported",
            f"Hugging Face's {ARCHITECTURES[shape.family]} has weights of its own in each of {shape.layers} layers, "
            f"this model {shape.weight_sets} set{'s' if shape.weight_sets > 1 else ''} for all of them",
            "Its weights are in the checkpoints of the run; train without model.layer_groups to export",
        )
    common = {
        "architectures": [ARCHITECTURES[shape.family]],
        "model_type": shape.family,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.tied_embeddings,
        "dtype": dtype,
        "torch_dtype": dtype,
        "initializer_range": 0.02,
        "bos_token_id": eos_id,
        "eos_token_id": eos_id,
        "use_cache": True,
    }
    return {**common, **(_gpt2_fields(shape) if shape.family == "gpt2" else _llama_fields(shape))}


def _gpt2_fields(shape: ModelShape) -> dict[str, Any]:
    if shape.heads * shape.head_size != shape.hidden:
        raise ModelError(
            "This model cannot be exported",
            f"Hugging Face's GPT-2 has heads of hidden / heads = {shape.hidden / shape.heads:g}, not {shape.head_size}",
            "Leave model.head_size out, or choose the llama family",
        )
    return {
        "n_positions": shape.positions,
        "n_ctx": shape.positions,
        "n_embd": shape.hidden,
        "n_layer": shape.layers,
        "n_head": shape.heads,
        "n_inner": shape.feed_forward,
        "activation_function": "gelu_new",
        "resid_pdrop": shape.dropout,
        "embd_pdrop": shape.dropout,
        "attn_pdrop": shape.dropout,
        "layer_norm_epsilon": shape.norm_eps,
    }


def _llama_fields(shape: ModelShape) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_type": "default"}
    if shape.rope_scaling is not None:
        rope = {
            "rope_type": "llama3",
            "factor": shape.rope_scaling.factor,
            "low_freq_factor": shape.rope_scaling.low_frequency_factor,
            "high_freq_factor": shape.rope_scaling.high_frequency_factor,
            "original_max_position_embeddings": shape.rope_scaling.original_positions,
        }
    return {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_size,
        "hidden_act": "silu",
        "max_position_embeddings": shape.positions,
        "rms_norm_eps": shape.norm_eps,
        "attention_bias": shape.bias,
        "mlp_bias": shape.bias,
        "attention_dropout": shape.dropout,
        "rope_theta": shape.rope_theta,
        "rope_scaling": rope if shape.rope_scaling is not None else None,
        "rope_parameters": {**rope, "rope_theta": shape.rope_theta},
    }
