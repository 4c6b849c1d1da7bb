"""Which checkpoints stay on disk, and what else is found in their folder."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

from engine.contract.errors import CheckpointError
from engine.contract.rundir import RunDirectory, complete_checkpoints
from engine.contract.spec import CheckpointSpec
from engine.training.checkpoint import read_manifest


def best_checkpoint(run: RunDirectory) -> tuple[Path, float] | None:
    """The checkpoint with the lowest validation loss, and that loss; None if no checkpoint has one.

    Of equals the earlier one: it took less training.
    """
    best: tuple[Path, float] | None = None
    for folder in complete_checkpoints(run):
        try:
            loss = read_manifest(folder).validation_loss
        except CheckpointError:
            continue  # damaged: whoever wants to load it will say so
        if loss is not None and (best is None or loss < best[1]):
            best = folder, loss
    return best


def superfluous(run: RunDirectory, spec: CheckpointSpec) -> list[Path]:
    """All checkpoints but the last ``keep_last`` and, if wanted, the best."""
    keep = {folder.name for folder in complete_checkpoints(run)[-spec.keep_last :]}
    if spec.keep_best and (best := best_checkpoint(run)):
        keep.add(best[0].name)
    return [folder for folder in complete_checkpoints(run) if folder.name not in keep]


def remove_checkpoint(folder: Path) -> None:
    """Delete a checkpoint. Raises OSError where it cannot be; it is whole then."""
    # Hidden first, so that a kill in between leaves nothing that looks like a checkpoint.
    hidden = folder.with_name(f".{folder.name}.removed-{uuid.uuid4().hex[:8]}")
    folder.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def clear_leftovers(run: RunDirectory) -> None:
    """Delete what a killed process left half-written or half-deleted."""
    if run.checkpoints.is_dir():
        for path in run.checkpoints.glob(".step-*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def set_aside(folder: Path) -> Path:
    """Rename a damaged checkpoint so that nothing takes it for a good one; its new place.

    Raises CheckpointError where it cannot be renamed: training on would write new checkpoints beside it.
    """
    place = folder.with_name(f"damaged-{folder.name}-{uuid.uuid4().hex[:4]}")
    try:
        folder.rename(place)
    except OSError as error:
        raise CheckpointError(
            f"{folder.name} is damaged and could not be set aside",
            f"{folder}: {error.strerror or error}",
            "Move the folder away, or make its parent writable, and resume",
        ) from error
    return place
