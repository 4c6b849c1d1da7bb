"""Data parallel: whole copies (DDP), shards (FSDP2, as ZeRO-2 or ZeRO-3), or shards in each of several copies (HSDP).

Parameters are sharded and their gradients reduced layer by layer, so that communication hides behind computation
(Rajbhandari et al. 2020; Zhao et al. 2023).
"""

from __future__ import annotations

from torch import nn
from torch.distributed._composable.replicate_with_fsdp import replicate
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from engine.model.decoder import Decoder
from engine.parallel.mesh import Mesh
from engine.parallel.precision import Precision


def apply_data_parallel(part: nn.Module, mesh: Mesh, precision: Precision) -> nn.Module:
    """``part`` with its gradients averaged over all ranks that see other data; what is returned takes its place.

    ``part`` is on its device already where the copies are alone; it may be on the meta device otherwise.
    """
    layout, axes = mesh.layout, mesh.devices
    if mesh.gradient_ranks == 1:
        return part
    if layout.dp_shard > 1:
        ranks = axes["replicate", "shard"] if axes["replicate"].size() > 1 else axes["shard"]
        for unit in _units(part):
            fully_shard(unit, mesh=ranks, mp_policy=precision.layer_policy(), reshard_after_forward=layout.reshard)
        # The last thing that runs forward is the first that runs backward: giving it up in between saves nothing.
        fully_shard(part, mesh=ranks, mp_policy=precision.outer_policy(), reshard_after_forward=False)
        return part
    if mesh.copies_alone:
        return DistributedDataParallel(part, gradient_as_bucket_view=True)
    for unit in _units(part):
        replicate(unit, mesh=axes["replicate"], mp_policy=precision.layer_policy())
    replicate(part, mesh=axes["replicate"], mp_policy=precision.outer_policy())
    return part


def _units(part: nn.Module) -> list[nn.Module]:
    """Parts that are gathered one at a time: the layers, unless several of them use the same weights."""
    if not isinstance(part, Decoder) or len(part.order) != len(set(part.order)):
        return []
    return list(part.layers.values())


class BackwardSync:
    """Which communication each backward pass of a step does.

    Shards are reduced after every micro-batch, since whole gradients would not fit; copies exchange theirs only after
    the last one. In its first step DistributedDataParallel exchanges them every time: only then do the gradients come
    to lie in its buckets, where they stay, instead of beside them.
    """

    def __init__(self, module: nn.Module, mesh: Mesh) -> None:
        self._module = module
        self._in_buckets = False
        self._keeps = mesh.layout.dp_shard > 1 and not mesh.layout.reshard

    def prepare(self, *, last: bool) -> None:
        """To be called before the forward pass of a micro-batch."""
        module = self._module
        if isinstance(module, DistributedDataParallel):
            module.require_backward_grad_sync = last or not self._in_buckets
            self._in_buckets |= last
        elif isinstance(module, FSDPModule):
            module.set_is_last_backward(last)
            module.set_requires_all_reduce(last)
            if self._keeps:
                module.set_reshard_after_backward(last)
