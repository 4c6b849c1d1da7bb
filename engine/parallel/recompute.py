"""Activation checkpointing: layers whose activations are computed again in the backward pass instead of kept.

``full`` keeps a layer's input alone (Chen et al. 2016) and pays about a third more arithmetic. ``selective`` keeps what
is dear to compute or to communicate and recomputes the rest, which costs little (Korthikanti et al. 2022, section 5).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from engine.contract.spec import Checkpointing
from engine.model.decoder import Decoder


def _kept_operators() -> frozenset[Any]:
    """Matrix products, fused attention, and sums over ranks, as this build of torch has them.

    Not ``bmm``: unfused attention makes its scores with it, whose size is the square of the sequence length. Not what
    is gathered from other ranks: it is as many times larger than the part that each rank has.
    """
    names = {
        torch.ops.aten: (
            "mm", "addmm", "_scaled_mm", "_scaled_dot_product_flash_attention",
            "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_efficient_attention",
            "_scaled_dot_product_cudnn_attention", "_scaled_dot_product_fused_attention_overrideable",
        ),
        torch.ops._c10d_functional: ("reduce_scatter_tensor", "all_reduce"),
    }  # fmt: skip
    return frozenset(
        getattr(space, name).default for space, wanted in names.items() for name in wanted if hasattr(space, name)
    )


_KEPT = _kept_operators()


def _policy(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    del context, args, kwargs
    return CheckpointPolicy.MUST_SAVE if operator in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE


def apply_checkpointing(part: nn.Module, mode: Checkpointing, every: int = 1) -> None:
    """Let every ``every``-th layer of ``part`` (the first, and so on) recompute its activations in the backward pass.

    The layers' ``forward`` is replaced, so that names of parameters stay, and hooks of other parallelism (gathering
    shards, redistributing inputs) run around what is recomputed: to be called before layers are compiled. Dropout
    draws again what it drew. A layer whose weights serve several times is recomputed each time, if once it is due.
    A network without layers (an LSTM, whose cells are one fused operator) is left as it is.
    """
    if mode == "none" or not isinstance(part, Decoder):
        return
    for name in dict.fromkeys(part.order[::every]):
        block = part.layers[name]
        block.forward = _recomputed(block.forward, mode)


def _recomputed(forward: Callable[..., Any], mode: Checkpointing) -> Callable[..., Any]:
    """``forward`` whose activations are recomputed.

    A function of this module: torch compiles none of its own, so a ``partial`` of ``checkpoint`` would leave the whole
    layer uncompiled.
    """
    settings: dict[str, Any] = {"use_reentrant": False}
    if mode == "selective":
        settings["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)

    def recomputed(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(forward, *args, **settings, **kwargs)

    return recomputed
