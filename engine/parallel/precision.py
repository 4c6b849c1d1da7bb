"""What a precision means: for parameters, for arithmetic, for what travels between ranks, and for the gradient's scale.

``bf16-mixed`` and ``fp16-mixed`` keep parameters, gradients, the optimiser's state and the stream between layers in
float32 and compute matrix products in 16 bits (Micikevicius et al. 2018), by autocast. Shards of layers are gathered
in 16 bits, which halves what travels forward; their gradients are summed in float32. ``bf16-true`` has everything in
bfloat16. ``fp8`` is ``bf16-mixed`` with the layers' matrix products in 8 bits (Micikevicius et al. 2022).
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.optim import Optimizer

from engine.contract import spec
from engine.contract.errors import RunError
from engine.contract.layout import Layout
from engine.parallel.dtensors import gradient, shard

FP8_CAPABILITY = (8, 9)
"""Compute capability of the first NVIDIA GPUs with 8-bit matrix products (Ada)."""
FP8_MULTIPLE = 16
"""What both sides of an 8-bit matrix must be a multiple of."""

_AUTOCAST: dict[spec.Precision, torch.dtype] = {
    "bf16-mixed": torch.bfloat16,
    "fp16-mixed": torch.float16,
    "fp8": torch.bfloat16,
}


@dataclass(frozen=True, kw_only=True)
class Precision:
    """A layout's precision, as the parts of the engine ask for it."""

    name: spec.Precision

    @classmethod
    def of(cls, layout: Layout) -> Precision:
        return cls(name=layout.precision)

    @property
    def parameter_dtype(self) -> torch.dtype:
        """Of parameters, gradients and the optimiser's state."""
        return torch.bfloat16 if self.name == "bf16-true" else torch.float32

    @property
    def compute_dtype(self) -> torch.dtype:
        """Of matrix products (at least: ``fp8`` has some in 8 bits)."""
        return _AUTOCAST.get(self.name, self.parameter_dtype)

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Around the forward pass (and around what a backward pass recomputes: torch sees to that)."""
        wanted = _AUTOCAST.get(self.name)
        return nullcontext() if wanted is None else torch.autocast(device.type, wanted)

    def layer_policy(self) -> MixedPrecisionPolicy:
        """How the shards of a layer travel."""
        wanted = _AUTOCAST.get(self.name)
        return MixedPrecisionPolicy(
            param_dtype=wanted, reduce_dtype=None if wanted is None else torch.float32, cast_forward_inputs=False
        )

    def outer_policy(self) -> MixedPrecisionPolicy:
        """How all other shards travel: in float32, since the embedding begins the stream between the layers."""
        return MixedPrecisionPolicy(cast_forward_inputs=False)

    def scaler(self, device: torch.device) -> ShardedScaler | None:
        """For ``fp16-mixed``, whose small gradients would vanish; None for all others."""
        return ShardedScaler(device.type) if self.name == "fp16-mixed" else None

    def prepare(self, part: nn.Module, device: torch.device) -> None:
        """Give ``part`` its number formats; to be called before it is split, compiled or has its values.

        Raises RunError where 8 bits are asked for and torchao or the hardware is missing.
        """
        part.to(self.parameter_dtype)
        if self.name == "fp8":
            check_fp8(device)
            _compute_in_8_bits(part)


def check_fp8(device: torch.device) -> None:
    """Raises RunError, naming what is missing, where matrix products in 8 bits are not possible."""
    try:
        import torchao.float8  # noqa: F401, PLC0415  # an optional extra
    except ImportError:
        raise RunError(
            "fp8 needs torchao",
            "layout.precision is 'fp8', and torchao is not installed",
            "pip install 'traindeck[fp8]', or choose bf16-mixed",
        ) from None
    cuda = device.type == "cuda"
    if not cuda or (torch.version.hip is None and torch.cuda.get_device_capability(device) < FP8_CAPABILITY):
        raise RunError(
            "This device cannot compute in 8 bits",
            f"layout.precision is 'fp8', and the device is {device.type}"
            + (f" ({torch.cuda.get_device_name(device)})" if cuda else ""),
            "It takes an NVIDIA GPU of compute capability 8.9 or newer; choose bf16-mixed",
        )


def _compute_in_8_bits(part: nn.Module) -> None:
    """The linear layers of the blocks. Not the head: 8 bits cost quality there, and the vocabulary seldom divides."""
    from torchao.float8 import convert_to_float8_training  # noqa: PLC0415  # an optional extra

    convert_to_float8_training(part, module_filter_fn=takes_8_bits)


def takes_8_bits(module: nn.Module, name: str) -> bool:
    """Whether ``module``, called ``name`` in the network, is computed in 8 bits."""
    return (
        isinstance(module, nn.Linear)
        and name.startswith("layers.")
        and module.in_features % FP8_MULTIPLE == module.out_features % FP8_MULTIPLE == 0
    )


class ShardedScaler(torch.amp.GradScaler):
    """Loss scaling (Micikevicius et al. 2018, section 3.2) for parameters that are plain or split, on any meshes.

    Each rank looks at its own shards, and all agree: a step is left out, and the scale halved, on every rank or on
    none. To be used as torch's: ``scale``, ``unscale_``, clip, ``step``, ``update``; ``unscale_`` on all ranks, with
    gradients that need no more summing.
    """

    def _unscale_grads_(
        self, optimizer: Optimizer, inv_scale: Tensor, found_inf: Tensor, allow_fp16: bool
    ) -> dict[torch.device, Tensor]:
        del allow_fp16  # master weights are float32, and so are their gradients
        by_dtype: dict[torch.dtype, list[Tensor]] = defaultdict(list)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    local = shard(gradient(parameter))
                    by_dtype[local.dtype].append(local)
        with torch.no_grad():
            for gradients in by_dtype.values():
                torch._amp_foreach_non_finite_check_and_unscale_(gradients, found_inf, inv_scale)
        if distributed.is_initialized():
            distributed.all_reduce(found_inf, op=distributed.ReduceOp.MAX)
        return {found_inf.device: found_inf}
