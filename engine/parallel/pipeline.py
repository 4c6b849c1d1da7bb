"""Pipeline parallel: consecutive layers on different ranks, micro-batches following each other through them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
    ScheduleZBVZeroBubble,
)
from torch.distributed.pipelining.schedules import PipelineScheduleMulti, PipelineScheduleSingle

from engine.contract.layout import Layout
from engine.contract.mesh import stages_at
from engine.contract.shape import ModelShape
from engine.model.build import build_model
from engine.model.decoder import Decoder

_SINGLE: dict[str, type[PipelineScheduleSingle]] = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}
_MULTI: dict[str, type[PipelineScheduleMulti]] = {
    "interleaved-1f1b": ScheduleInterleaved1F1B,
    "zero-bubble": ScheduleInterleavedZeroBubble,
    "zero-bubble-v": ScheduleZBVZeroBubble,
}


def rank_of_stage(layout: Layout, stage: int) -> int:
    """The pp rank that has ``stage``."""
    if layout.schedule == "zero-bubble-v":
        return stage if stage < layout.pp else 2 * layout.pp - 1 - stage
    return stage % layout.pp


def cut_stage(shape: ModelShape, layout: Layout, stage: int) -> Decoder:
    """The part of the model that is ``stage``, on the meta device. Its parameters are called as in the whole model."""
    assert layout.stages is not None
    model = build_model(shape, seed=None, device="meta")
    assert isinstance(model, Decoder)
    first = sum(layout.stages[:stage])
    model.order = model.order[first : first + layout.stages[stage]]
    for name in list(model.layers):
        if name not in model.order:
            del model.layers[name]
    if stage > 0:
        model.embedding = model.position_embedding = None
        model.dropout = nn.Identity()
    if stage < len(layout.stages) - 1:
        model.norm = model.head = None
    return model


class Pipeline:
    """A rank's stages and the schedule that runs them."""

    def __init__(
        self, parts: Sequence[Decoder], layout: Layout, group: distributed.ProcessGroup, device: torch.device
    ) -> None:
        assert layout.stages is not None
        assert layout.schedule is not None
        count = len(layout.stages)
        self._device = device
        self._numbers = stages_at(layout, distributed.get_rank(group))
        self._parts = parts
        self._count = layout.accumulation
        self._scale: Tensor | float = 1.0
        self._sums: list[Tensor] = []
        stages: list[Any] = [
            PipelineStage(part, number, count, device, group=group)
            for part, number in zip(parts, self._numbers, strict=True)
        ]
        self._schedule: PipelineScheduleSingle | PipelineScheduleMulti
        if layout.schedule in _SINGLE:
            self._schedule = _SINGLE[layout.schedule](
                stages[0], layout.accumulation, loss_fn=self._objective, scale_grads=False
            )
        else:
            self._schedule = _MULTI[layout.schedule](
                stages, layout.accumulation, loss_fn=self._objective, scale_grads=False
            )
        self.is_first = 0 in self._numbers
        self.is_last = count - 1 in self._numbers

    def step(self, tokens: Tensor, targets: Tensor, scale: Tensor | float) -> Tensor:
        """Forward and backward of all micro-batches; the sums of the loss, zeros on ranks that do not compute it.

        ``tokens`` and ``targets`` (accumulation * micro_batch, seq); gradients are those of ``scale`` times the
        objective.
        """
        self._scale, self._sums = scale, []
        arguments = (tokens,) if self.is_first else ()
        if self.is_last:
            # The criterion is part of the last stage; the schedule's own target is a formality.
            marks = torch.zeros(tokens.shape[0], device=self._device)
            self._schedule.step(*arguments, target=marks, losses=[], targets=targets, return_outputs=False)
            # The first step also tries the last stage on made-up input, to learn its shapes.
            return torch.stack(self._sums[-self._count :]).sum(dim=0)
        self._schedule.step(*arguments, return_outputs=False)
        return torch.zeros(2, device=self._device)

    def _objective(self, sums: Tensor, marks: Tensor) -> Tensor:
        self._sums.append(sums.detach())
        return sums[0] * self._scale
