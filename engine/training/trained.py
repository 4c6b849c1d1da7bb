"""A trained model, for the short commands that use one."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.contract.errors import CheckpointError
from engine.contract.layout import Layout
from engine.contract.rundir import RunDirectory, complete_checkpoints
from engine.data.prepared import PreparedData, read_prepared
from engine.model.build import LanguageModel, build_model
from engine.parallel.precision import Precision
from engine.training.checkpoint import Content, load_checkpoint, read_content, verify_checkpoint
from engine.training.checkpoint_index import MODEL
from engine.training.inputs import read_layout
from engine.training.retention import best_checkpoint


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The model of a checkpoint on the first visible device of the kind that its run trains on, else on the CPU."""

    model: LanguageModel
    content: Content
    checkpoint: str
    data: PreparedData
    device: torch.device
    precision: Precision

    def autocast(self) -> AbstractContextManager[object]:
        """The precision that the model was trained in."""
        return self.precision.autocast(self.device)


def load_trained(run: RunDirectory, name: str | None = None) -> Trained:
    """The model of checkpoint ``name``: ``step-<n>``, ``best``, or None for the newest.

    Reads, and verifies, the model alone: damage to the optimiser's files does not matter here. Raises CheckpointError
    where there is no such checkpoint or it is damaged, RunError and DataError as the parts of the run do.
    """
    folder = find_checkpoint(run, name)
    verify_checkpoint(folder, [MODEL])
    content = read_content(folder)
    layout = read_layout(run.plan)
    device = _device(layout)
    model = build_model(content.shape, seed=None, device=device)
    load_checkpoint(folder, model, content)
    model.eval()
    return Trained(
        model=model,
        content=content,
        checkpoint=folder.name,
        data=read_prepared(run),
        device=device,
        precision=Precision.of(layout),
    )


def find_checkpoint(run: RunDirectory, name: str | None) -> Path:
    """The folder of checkpoint ``name``, see :func:`load_trained`. Raises CheckpointError."""
    folders = complete_checkpoints(run)
    if not folders:
        raise CheckpointError(
            "The run has no checkpoint yet",
            f"There is none in {run.checkpoints}",
            f"Let it train on, or ask for one: traindeck checkpoint {run.id}",
        )
    if name is None:
        return folders[-1]
    if name == "best":
        best = best_checkpoint(run)
        return best[0] if best else folders[-1]
    for folder in folders:
        if folder.name == name:
            return folder
    raise CheckpointError(
        "There is no such checkpoint",
        f"{name!r} is not among those of {run.id}",
        "There are: best, " + ", ".join(folder.name for folder in folders),
    )


def _device(layout: Layout) -> torch.device:
    if layout.accelerator == "cuda" and torch.cuda.is_available():
        return torch.device("cuda", 0)
    if layout.accelerator == "mps" and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")
