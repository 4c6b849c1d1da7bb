"""Checkpoints: written aside, synced, verified by digest, never unpickled.

A folder holds ``model.safetensors``, ``optimiser.safetensors``, ``training.json`` (what it is a checkpoint of)
and, written last, ``manifest.json`` with size and digest of the others. Every random choice of a training is a
function of seed, step and rank, so there is no generator state to keep.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from engine.contract.durable import sync_folder, write_durably
from engine.contract.errors import CheckpointError
from engine.contract.records import UNREADABLE
from engine.contract.rundir import (
    CHECKPOINT_MANIFEST,
    CheckpointManifest,
    FileDigest,
    RunDirectory,
    complete_checkpoints,
)
from engine.contract.shape import ModelShape
from engine.training.tensors import model_tensors, optimiser_tensors, restore_model, restore_optimiser

MODEL = "model.safetensors"
OPTIMISER = "optimiser.safetensors"
CONTENT = "training.json"
OTHER_MODEL = "The checkpoint is of another model"

Record = TypeVar("Record", bound=msgspec.Struct)


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """What a checkpoint is a checkpoint of."""

    shape: ModelShape
    optimiser: str
    data_fingerprint: str


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """How far a training is."""

    step: int
    samples: int
    """Global index of the next sample."""
    tokens: int
    elapsed_seconds: float


def save_checkpoint(
    run: RunDirectory,
    model: nn.Module,
    optimiser: Optimizer,
    content: Content,
    position: Position,
    validation_loss: float | None = None,
) -> Path:
    """Write ``checkpoints/step-<n>`` and return it; it replaces one of the same step.

    Raises CheckpointError when it cannot be written (a full disk); what was there before is untouched then.
    """
    folder = run.checkpoints / f"step-{position.step}"
    aside = run.checkpoints / f".{folder.name}.partial-{uuid.uuid4().hex[:8]}"
    try:
        run.checkpoints.mkdir(mode=0o700, exist_ok=True)
        aside.mkdir(mode=0o700)
        _save_tensors(model_tensors(model), aside / MODEL)
        _save_tensors(optimiser_tensors(model, optimiser), aside / OPTIMISER)
        (aside / CONTENT).write_bytes(msgspec.json.format(msgspec.json.encode(content)))
        manifest = CheckpointManifest(
            step=position.step,
            samples=position.samples,
            tokens=position.tokens,
            elapsed_seconds=position.elapsed_seconds,
            validation_loss=validation_loss,
            files={path.name: _sync_and_digest(path) for path in sorted(aside.iterdir())},
        )
        write_durably(aside / CHECKPOINT_MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))
        _put_in_place(aside, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise CheckpointError(
            f"The checkpoint of step {position.step} was not written",
            str(error),
            f"Make room on the disk of {run.checkpoints}; earlier checkpoints are kept",
        ) from error
    return folder


def load_checkpoint(
    folder: Path, model: nn.Module, content: Content, optimiser: Optimizer | None = None
) -> CheckpointManifest:
    """Restore ``model`` and, if given, ``optimiser`` from ``folder``.

    Raises CheckpointError if it is of another model or optimiser than ``content`` says. Does not verify digests.
    """
    saved = read_content(folder)
    for field in ModelShape.__struct_fields__:
        was, now = getattr(saved.shape, field), getattr(content.shape, field)
        if was != now and field != "dropout":
            raise CheckpointError(
                OTHER_MODEL,
                f"{folder.name} has {field} = {was}, and the spec says {now}",
                "Put the spec back as it was, or start a new run",
            )
    if optimiser is not None and saved.optimiser != content.optimiser:
        raise CheckpointError(
            "The checkpoint is of another optimiser",
            f"{folder.name} was trained with {saved.optimiser}, and the spec says {content.optimiser}",
            "Put optim.name back as it was, or start a new run",
        )
    restore_model(model, _load_tensors(folder / MODEL))
    if optimiser is not None:
        restore_optimiser(model, optimiser, _load_tensors(folder / OPTIMISER))
    return read_manifest(folder)


def verify_checkpoint(folder: Path) -> CheckpointManifest:
    """The manifest of ``folder``, once every file has the size and digest that it names.

    Raises CheckpointError naming the file that is damaged.
    """
    manifest = read_manifest(folder)
    for name, expected in manifest.files.items():
        try:
            found = _digest(folder / name)
        except OSError as error:
            raise CheckpointError(f"{folder.name} is damaged", f"{name}: {error.strerror or error}") from None
        if found != expected:
            raise CheckpointError(f"{folder.name} is damaged", f"{name} is not what was written")
    return manifest


def read_manifest(folder: Path) -> CheckpointManifest:
    """The manifest of ``folder``. Raises CheckpointError where it is missing or damaged."""
    return _read(folder / CHECKPOINT_MANIFEST, CheckpointManifest)


def read_content(folder: Path) -> Content:
    """What ``folder`` is a checkpoint of. Raises CheckpointError where that cannot be read."""
    return _read(folder / CONTENT, Content)


def find_sound(run: RunDirectory) -> tuple[Path | None, list[tuple[Path, CheckpointError]]]:
    """The newest checkpoint that verifies, and what is wrong with those after it."""
    problems = []
    for folder in reversed(complete_checkpoints(run)):
        try:
            verify_checkpoint(folder)
        except CheckpointError as error:
            problems.append((folder, error))
            continue
        return folder, problems
    return None, problems


def _read(path: Path, kind: type[Record]) -> Record:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise CheckpointError(f"{path.parent.name} is damaged", f"{path.name}: {error.strerror or error}") from None
    except UNREADABLE as error:
        raise CheckpointError(f"{path.parent.name} is damaged", f"{path.name}: {error}") from None


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path.parent.name} is damaged", f"{path.name}: {error}") from None
    return tensors


def _put_in_place(aside: Path, folder: Path) -> None:
    """Rename ``aside`` to ``folder``; a folder of that name steps back first and goes only when all is done."""
    former = None
    if folder.exists():
        former = folder.with_name(f".{folder.name}.former-{uuid.uuid4().hex[:8]}")
        folder.rename(former)
    aside.rename(folder)
    sync_folder(folder.parent)
    if former is not None:
        shutil.rmtree(former, ignore_errors=True)


def _sync_and_digest(path: Path) -> FileDigest:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    path.chmod(0o600)
    return _digest(path)


def _digest(path: Path) -> FileDigest:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
        return FileDigest(bytes=file.tell(), digest=digest.hexdigest())
