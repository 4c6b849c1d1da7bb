"""Who writes a sample: rank 0 alone where it has the whole model, else all ranks together."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

from engine.model.build import LanguageModel
from engine.model.decoder import Decoder
from engine.model.generation import CachedReader, NextLogits, window_start
from engine.model.lstm import LstmModel
from engine.training.session import Session


def writer_of(session: Session) -> NextLogits | None:
    """What this rank reads with; None if rank 0 does it alone."""
    length = session.inputs.spec.data.sequence_length
    if session.mesh is None or session.mesh.copies_alone:
        if session.ranks.rank != 0:
            return None
        (model,) = session.network.parts
        assert isinstance(model, Decoder | LstmModel)
        return _alone(session, model, length)
    return RanksTogether(session)


def _alone(session: Session, model: LanguageModel, length: int) -> NextLogits:
    reader = CachedReader(model, length)
    autocast = session.network.autocast

    def read(tokens: Tensor) -> Tensor:
        with autocast():
            return reader(tokens)

    return read


class RanksTogether:
    """All ranks read the same tokens; each adds the logits that it has.

    Every token costs a forward pass over a whole sequence, for what is split over ranks keeps no keys and values. That
    is the price of a sample for which no rank has to hold the whole model; the steps between two of them cost more.
    """

    def __init__(self, session: Session) -> None:
        assert session.mesh is not None
        self._session = session
        self._mesh = session.mesh
        self._length = session.inputs.spec.data.sequence_length
        self._vocabulary = session.inputs.shape.vocabulary

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        """As :data:`engine.model.generation.NextLogits`; every rank calls it with the same ``tokens``."""
        window = tokens[:, window_start(tokens.shape[1], self._length) :]
        last = window.shape[1] - 1
        row = torch.zeros(1, self._length + 1, dtype=torch.int64)
        row[0, : window.shape[1]] = window[0].cpu()  # what follows does not matter: attention is causal
        own, _ = self._session.batches.split(row.numpy())
        found = self._session.network.logits(own)
        whole = torch.zeros(self._vocabulary, device=self._session.device)
        place = self._place_of(last)
        if found is not None and place is not None and self._mesh.data_rank == 0:
            part = found.shape[-1]
            first = self._mesh.place.tp * part if self._mesh.layout.tp > 1 else 0
            whole[first : first + part] = found[0, place].float()
        distributed.all_reduce(whole)
        return whole

    def _place_of(self, position: int) -> int | None:
        """Where ``position`` of the sequence stands among those of this rank; None if another rank has it."""
        own = self._mesh.positions(self._length, torch.device("cpu"))
        if own is None:
            return position
        places = (own == position).nonzero()
        return int(places[0]) if len(places) else None
