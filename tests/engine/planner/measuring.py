"""A step of training on real ranks, and the bytes that torch had handed out at its fullest moment."""

from __future__ import annotations

import os

from engine.contract.layout import Layout
from engine.contract.shape import ModelShape
from engine.contract.spec import OptimSpec
from engine.planner.activations import copies_alone


def peaks_of_a_step(shape: ModelShape, layouts: list[Layout], optim: OptimSpec, length: int) -> list[int]:
    """The peak of this rank in the second step under each of ``layouts``, parameters and optimiser state included."""
    return [_peak(shape, layout, optim, length) for layout in layouts]


def _peak(shape: ModelShape, layout: Layout, optim: OptimSpec, length: int) -> int:
    import torch
    from torch.profiler import ProfilerActivity, profile

    from engine.contract.mesh import micro_batch_of
    from engine.parallel.apply import NetworkBuilder
    from engine.parallel.dtensors import shard
    from engine.parallel.gradients import Gradients
    from engine.parallel.mesh import make_mesh
    from engine.parallel.precision import Precision
    from engine.training.optimiser import build_optimiser

    device = torch.device("cpu")
    mesh = make_mesh(layout, "cpu", tied=shape.tied_embeddings)
    network = NetworkBuilder(
        shape=shape, layout=layout, mesh=mesh, device=device, precision=Precision.of(layout), seed=0,
        sequence_length=length,
    ).build()  # fmt: skip
    optimiser = build_optimiser(network.parts, optim, device)
    gradients = Gradients(network.parts, mesh, shape.tied_embeddings)
    batch = micro_batch_of(layout, int(os.environ["RANK"]))

    def step() -> None:
        size = (batch, length // layout.cp)
        batches = [(torch.zeros(size, dtype=torch.int64), torch.zeros(size, dtype=torch.int64))] * layout.accumulation
        network.backward(batches, 1e-3)
        gradients.settle()
        gradients.clip(gradients.norm(), 1.0)
        optimiser.step()
        optimiser.zero_grad()

    step()
    step()
    held = sum(shard(parameter.detach()).nbytes for part in network.parts for parameter in part.parameters())
    held += sum(shard(value).nbytes for memory in optimiser.state.values() for value in memory.values())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    # DDP's buckets stay from step to step; the first step sorts them, the second makes them.
    buckets = sum(parameter.nbytes for part in network.parts for parameter in part.parameters())
    return held + peak + (buckets if copies_alone(layout) else 0)
