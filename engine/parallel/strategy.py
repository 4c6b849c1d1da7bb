"""Lightning's view of a run over many ranks: process groups as Lightning makes them, one mesh of ours on top."""

from __future__ import annotations

from datetime import timedelta

from lightning.fabric.strategies import ModelParallelStrategy
from lightning.fabric.strategies.parallel import ParallelStrategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from typing_extensions import override

from engine.contract.layout import Layout
from engine.parallel.mesh import Mesh, make_mesh

COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""How long a worker waits for the others."""


class MeshStrategy(ModelParallelStrategy):  # type: ignore[misc]  # Lightning has no types here
    """Lightning's own model-parallel strategy has two axes; this one has those of a layout."""

    def __init__(self, layout: Layout, *, tied: bool) -> None:
        """``tied``: whether the model's embedding and head share a table."""
        super().__init__(
            parallelize_fn=_already_parallel,
            process_group_backend="nccl" if layout.accelerator == "cuda" else "gloo",
            timeout=COLLECTIVE_TIMEOUT,
        )
        self._layout = layout
        self._tied = tied
        self._mesh: Mesh | None = None

    @property
    def mesh(self) -> Mesh:
        """The mesh; there once Fabric was launched."""
        assert self._mesh is not None
        return self._mesh

    @override
    def setup_environment(self) -> None:
        ParallelStrategy.setup_environment(self)  # the parent's would make its own mesh
        self._setup_distributed()
        self._mesh = make_mesh(self._layout, self.root_device.type, tied=self._tied)
        self._device_mesh = self._mesh.devices


def _already_parallel(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """``engine.parallel.apply`` builds a rank's part of the model; nothing is left to be done to it."""
    return module
