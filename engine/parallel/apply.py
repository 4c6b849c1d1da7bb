"""From a shape and a layout to this rank's network: every kind of parallelism, in the order in which it is applied."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from engine.contract.layout import Layout
from engine.contract.mesh import stages_at
from engine.contract.shape import ModelShape
from engine.model.build import build_model
from engine.model.criterion import Criterion
from engine.model.decoder import Decoder
from engine.parallel.context import apply_context_parallel
from engine.parallel.mesh import Mesh
from engine.parallel.network import Network, PipelinedNetwork, WholeNetwork
from engine.parallel.pipeline import cut_stage
from engine.parallel.precision import Precision
from engine.parallel.recompute import apply_checkpointing
from engine.parallel.shard import apply_data_parallel
from engine.parallel.tensor import apply_tensor_parallel
from engine.parallel.weights import materialise


@dataclass(frozen=True, kw_only=True)
class NetworkBuilder:
    """What the parts of a network have in common."""

    shape: ModelShape
    layout: Layout
    mesh: Mesh | None
    """None where there is one rank."""
    device: torch.device
    precision: Precision
    seed: int
    sequence_length: int
    label_smoothing: float = 0.0
    compiled: bool = False

    def build(self) -> Network:
        """The part of the model that this rank trains, with its first weights."""
        autocast = partial(self.precision.autocast, self.device)
        if self.mesh is None or self.layout.pp == 1:
            part = build_model(self.shape, seed=None, device="meta")
            return WholeNetwork(self.parallelise(part), self.mesh, autocast)
        stages = stages_at(self.layout, self.mesh.place.pp)
        parts = [cut_stage(self.shape, self.layout, stage) for stage in stages]
        for part in parts:
            self.parallelise(part)
        return PipelinedNetwork(parts, self.mesh, self.device, autocast, self.precision.parameter_dtype)

    def parallelise(self, part: nn.Module) -> nn.Module:
        """``part``, on the meta device until now, as this rank trains it; what is returned takes its place."""
        layout, mesh = self.layout, self.mesh
        self._set_criterion(part)
        self.precision.prepare(part, self.device)
        if isinstance(part, Decoder) and mesh is not None:
            part.positions = mesh.positions(self.sequence_length, self.device)
            if mesh.context is not None:
                apply_context_parallel(part, mesh.context, self.device)
            if layout.tp > 1:
                apply_tensor_parallel(part, mesh.devices["tp"])
        apply_checkpointing(part, layout.checkpointing, layout.checkpoint_every)
        self._compile(part)
        if mesh is None or mesh.gradient_ranks == 1:
            materialise(part, self.shape, self.seed, self.device)
            return part
        if mesh.copies_alone:  # DistributedDataParallel takes what has memory
            materialise(part, self.shape, self.seed, self.device)
            return apply_data_parallel(part, mesh, self.precision)
        wrapped = apply_data_parallel(part, mesh, self.precision)
        materialise(part, self.shape, self.seed, self.device)
        return wrapped

    def _set_criterion(self, part: nn.Module) -> None:
        criterion = part.get_submodule("criterion")
        assert isinstance(criterion, Criterion)
        criterion.label_smoothing = self.label_smoothing
        criterion.chunks = self.layout.loss_chunks

    def _compile(self, part: nn.Module) -> None:
        """Compile layer by layer where communication happens between the layers, else the whole."""
        if not self.compiled:
            return
        if self.mesh is None or self.mesh.copies_alone or not isinstance(part, Decoder):
            part.compile()
        else:
            for block in part.layers.values():
                block.compile()
