"""A rank's part of the model, trained and scored in the same way whatever is parallel."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from engine.model.decoder import Decoder
from engine.parallel.mesh import Mesh
from engine.parallel.pipeline import Pipeline, rank_of_stage
from engine.parallel.shard import BackwardSync

MicroBatch = tuple[Tensor, Tensor]
"""Tokens and targets of this rank, (micro_batch, seq / cp) each."""
Autocast = Callable[[], AbstractContextManager[object]]


class Network(Protocol):
    """What the loop works with."""

    parts: Sequence[nn.Module]
    """This rank's modules; their parameters are called as in the whole model."""
    counts: bool
    """Whether what this rank scores counts: of ranks that compute the same loss, one does."""

    keeps_gradients: bool
    """Whether gradients have a place of their own, to be filled with zeros instead of given up after a step."""
    autocast: Autocast
    """Around every forward pass."""

    def backward(self, micro_batches: Iterable[MicroBatch], scale: Tensor | float) -> Tensor:
        """Add the gradients of ``scale`` times the objective, summed over all tokens of ``micro_batches``.

        Returns the sums ``(objective, cross_entropy)``, (2,), of this rank's tokens; zeros where they do not count.
        """

    def score(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """The sums of a batch without gradients, as :meth:`backward` returns them."""

    def logits(self, tokens: Tensor) -> Tensor | None:
        """Logits of this rank's positions and part of the vocabulary; None where this rank has no head."""


class WholeNetwork:
    """All layers on this rank, perhaps in pieces over others."""

    def __init__(self, module: nn.Module, mesh: Mesh | None, autocast: Autocast) -> None:
        """``module`` may be wrapped (DistributedDataParallel); the part itself is what it wraps."""
        self._module = module
        inner = getattr(module, "module", module)
        self.parts: Sequence[nn.Module] = [inner]
        self.counts = mesh is None or mesh.place.tp == 0
        self.autocast = autocast
        self._sync = None if mesh is None else BackwardSync(module, mesh)
        self._plain = mesh is None or inner is not module
        self.keeps_gradients = isinstance(module, DistributedDataParallel)

    def backward(self, micro_batches: Iterable[MicroBatch], scale: Tensor | float) -> Tensor:
        total: Tensor | None = None
        pending = iter(micro_batches)
        batch = next(pending, None)
        while batch is not None:
            following = next(pending, None)
            if self._sync is not None:
                self._sync.prepare(last=following is None)
            tokens, targets = batch
            with self.autocast():
                sums = self._module(tokens, targets=targets)
            (sums[0] * scale).backward()
            total = sums.detach() if total is None else total + sums.detach()
            batch = following
        assert total is not None
        return total if self.counts else torch.zeros_like(total)

    @torch.no_grad()
    def score(self, tokens: Tensor, targets: Tensor) -> Tensor:
        module = self.parts[0] if self._plain else self._module
        with self.autocast():
            sums: Tensor = module(tokens, targets=targets)
        return sums if self.counts else torch.zeros_like(sums)

    @torch.no_grad()
    def logits(self, tokens: Tensor) -> Tensor | None:
        module = self.parts[0] if self._plain else self._module
        with self.autocast():
            logits: Tensor = module(tokens)
        return logits


class PipelinedNetwork:
    """Some layers on this rank: a stage, or several."""

    def __init__(
        self,
        parts: Sequence[Decoder],
        mesh: Mesh,
        device: torch.device,
        autocast: Autocast,
        stream_dtype: torch.dtype,
    ) -> None:
        """``stream_dtype`` is what one stage passes on to the next in."""
        layout = mesh.layout
        self.parts: Sequence[nn.Module] = parts
        self._decoders = parts
        self._mesh = mesh
        self._device = device
        self._group = mesh.devices["pp"].get_group()
        self._pipeline = Pipeline(parts, layout, self._group, device)
        self.counts = self._pipeline.is_last and mesh.place.tp == 0
        self.keeps_gradients = False
        self.autocast = autocast
        self._stream_dtype = stream_dtype
        for part in parts:  # the schedule calls them itself, and its backward passes are not to be inside
            part.forward = _within(autocast, part.forward)  # type: ignore[method-assign]

    def backward(self, micro_batches: Iterable[MicroBatch], scale: Tensor | float) -> Tensor:
        tokens, targets = (torch.cat(pieces) for pieces in zip(*micro_batches, strict=True))
        sums = self._pipeline.step(tokens, targets, scale)
        return sums if self.counts else torch.zeros_like(sums)

    @torch.no_grad()
    def score(self, tokens: Tensor, targets: Tensor) -> Tensor:
        sums = self._forward(tokens, targets)
        return sums if sums is not None and self.counts else torch.zeros(2, device=self._device)

    @torch.no_grad()
    def logits(self, tokens: Tensor) -> Tensor | None:
        return self._forward(tokens, None)

    def _forward(self, tokens: Tensor, targets: Tensor | None) -> Tensor | None:
        """Pass one batch through all stages; what the last one says, on its rank."""
        layout = self._mesh.layout
        assert layout.stages is not None
        me, last = self._mesh.place.pp, len(layout.stages) - 1
        parts = iter(self._decoders)
        stream = tokens
        for stage in range(last + 1):
            owner = rank_of_stage(layout, stage)
            if owner != me:
                continue
            part = next(parts)
            if stage > 0:
                before = rank_of_stage(layout, stage - 1)
                stream = stream if before == me else self._receive(tokens, before)
            result: Tensor = part(stream, targets=targets)
            if stage == last:
                return result
            stream, after = result, rank_of_stage(layout, stage + 1)
            if after != me:
                distributed.send(stream.contiguous(), group=self._group, group_dst=after)
        return None

    def _receive(self, tokens: Tensor, source: int) -> Tensor:
        shape = self._decoders[0].shape
        length = tokens.shape[1] // self._mesh.layout.tp
        stream = torch.empty(tokens.shape[0], length, shape.hidden, device=self._device, dtype=self._stream_dtype)
        distributed.recv(stream, group=self._group, group_src=source)
        return stream


def _within(autocast: Autocast, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(forward)
    def call(*args: Any, **kwargs: Any) -> Tensor:
        with autocast():
            return forward(*args, **kwargs)

    return call
