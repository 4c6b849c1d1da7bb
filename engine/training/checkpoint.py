"""Checkpoints on disk: what they are of, whether they are sound, and their way back into a network.

A folder holds the tensors of model and optimiser, in one safetensors file each for every rank that wrote some,
``tensors.json`` (where which piece is), ``training.json`` (what it is a checkpoint of) and, written last,
``manifest.json`` with size and digest of the others. Nothing in it is ever unpickled. Every random choice of a training
is a function of seed, step and rank: there is no generator state to keep. ``engine.training.checkpointer`` writes them.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
from torch import distributed, nn
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.optim import Optimizer

from engine.contract.errors import CheckpointError, TraindeckError
from engine.contract.records import UNREADABLE
from engine.contract.rundir import (
    CHECKPOINT_MANIFEST,
    CheckpointManifest,
    FileDigest,
    RunDirectory,
    checkpoint_folders,
)
from engine.contract.shape import ModelShape
from engine.training.checkpoint_index import MODEL, OPTIMISER, Index, group_of, read_index
from engine.training.checkpoint_plan import OTHER_MODEL, Target, TargetPlanner
from engine.training.checkpoint_storage import ShardReader
from engine.training.tensors import every_model_tensor, every_optimiser_tensor, match_optimiser, model_tensors

CONTENT = "training.json"
SCHEMA = 2
"""Of the manifests that are written. The first had one file for each group and no ``tensors.json``."""
OTHER_OPTIMISER = "The checkpoint is of another optimiser"

Record = TypeVar("Record", bound=msgspec.Struct)

# It is meant: a process that has the whole network, and each rank when it reads what it needs.
warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")


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
    loss_scale: float | None = None
    loss_scale_age: int | None = None
    """As in the manifest."""


class NewerCheckpointError(CheckpointError):
    """A checkpoint in a form that is not known yet: nothing is wrong with it."""


class _Schema(msgspec.Struct):
    """The one field of a manifest that says how to read the others."""

    schema: int = 1


def load_checkpoint(
    folder: Path,
    parts: Sequence[nn.Module] | nn.Module,
    content: Content,
    optimiser: Optimizer | None = None,
    group: ProcessGroup | None = None,
) -> CheckpointManifest:
    """Restore what this rank holds of the network and, if given, of its optimiser: only that is read.

    With a ``group``, all its ranks call this, and an error of one is raised on all. Raises CheckpointError if the
    checkpoint is of another model or optimiser than ``content`` says. Does not verify digests.
    """
    parts = [parts] if isinstance(parts, nn.Module) else parts
    with together(group):
        manifest = read_manifest(folder)
        _compare(folder, content, optimiser)
        index = read_index(folder, manifest.files, [MODEL] if optimiser is None else [MODEL, OPTIMISER])
    names = everywhere(list(model_tensors(parts)), group)
    with together(group):
        for name in sorted(names ^ index[MODEL].keys()):
            where = "the checkpoint lacks" if name in names else "the model has no"
            raise CheckpointError(OTHER_MODEL, f"{where} tensor {name}")
        # All ranks make the memory of their optimisers here, which may be work in common.
        if optimiser is not None:
            match_optimiser(parts, optimiser, frozenset(index[OPTIMISER]))
    with together(group):
        _read_tensors(folder, index, parts, optimiser)
    return manifest


def verify_checkpoint(folder: Path, groups: Sequence[str] = (MODEL, OPTIMISER)) -> CheckpointManifest:
    """The manifest of ``folder``, once the files that hold ``groups`` have the size and digest that it names.

    Raises CheckpointError naming the file that is damaged.
    """
    manifest = read_manifest(folder)
    wanted = {name: file for name, file in manifest.files.items() if group_of(name) in {"", *groups}}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # digesting leaves Python's lock
        found = {name: pool.submit(digest_file, folder / name) for name in wanted}
        for name, expected in wanted.items():
            try:
                is_sound = found[name].result() == expected
            except OSError as error:
                raise CheckpointError(f"{folder.name} is damaged", f"{name}: {error.strerror or error}") from None
            if not is_sound:
                raise CheckpointError(f"{folder.name} is damaged", f"{name} is not what was written")
    return manifest


def find_sound(run: RunDirectory) -> tuple[Path | None, list[tuple[Path, CheckpointError]]]:
    """The newest checkpoint that verifies, and what is wrong with those after it.

    Raises NewerCheckpointError where the newest was written by a newer Traindeck: going on from an older one would
    throw its work away unasked.
    """
    problems = []
    for folder in reversed(checkpoint_folders(run)):
        try:
            verify_checkpoint(folder)
        except NewerCheckpointError:
            raise
        except CheckpointError as error:
            problems.append((folder, error))
            continue
        return folder, problems
    return None, problems


def read_manifest(folder: Path) -> CheckpointManifest:
    """The manifest of ``folder``. Raises CheckpointError where it is missing, damaged or of a newer schema."""
    path = folder / CHECKPOINT_MANIFEST
    schema = _read(path, _Schema).schema
    if schema > SCHEMA:
        raise NewerCheckpointError(
            "The checkpoint was written by a newer Traindeck",
            f"{folder.name} has schema {schema}, and this Traindeck knows those up to {SCHEMA}",
            "Update Traindeck on this machine",
        )
    return _read(path, CheckpointManifest)


def read_content(folder: Path) -> Content:
    """What ``folder`` is a checkpoint of. Raises CheckpointError where that cannot be read."""
    return _read(folder / CONTENT, Content)


def digest_file(path: Path) -> FileDigest:
    """Size and digest of a file as it is now. Raises OSError."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, _new_digest)
        return FileDigest(bytes=file.tell(), digest=digest.hexdigest())


@contextmanager
def together(group: ProcessGroup | None) -> Iterator[None]:
    """Raise on all ranks of ``group`` what a person can cause on one, so that none waits for the others in vain."""
    problem: TraindeckError | None = None
    try:
        yield
    except TraindeckError as error:
        problem = error
    if group is not None:
        told: list[tuple[str, str, str] | None] = [None] * distributed.get_world_size(group)
        mine = None if problem is None else (problem.title, problem.message, problem.hint)
        distributed.all_gather_object(told, mine, group=group)
        first = next((words for words in told if words is not None), None)
        if first is not None and problem is None:
            problem = CheckpointError(*first)
    if problem is not None:
        raise problem


def everywhere(names: Sequence[str], group: ProcessGroup | None) -> set[str]:
    """The ``names`` of all ranks."""
    if group is None:
        return set(names)
    told: list[Sequence[str]] = [()] * distributed.get_world_size(group)
    distributed.all_gather_object(told, names, group=group)
    return set().union(*told)


def _compare(folder: Path, content: Content, optimiser: Optimizer | None) -> None:
    """Raise CheckpointError naming the first thing in which the checkpoint differs from ``content``."""
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
            OTHER_OPTIMISER,
            f"{folder.name} was trained with {saved.optimiser}, and the spec says {content.optimiser}",
            "Put optim.name back as it was, or start a new run",
        )


def _read_tensors(folder: Path, index: Index, parts: Sequence[nn.Module], optimiser: Optimizer | None) -> None:
    """Copy into this rank's tensors their ranges of the checkpoint. Raises CheckpointError."""
    targets = [Target.of(MODEL, named) for named in every_model_tensor(parts)]
    if optimiser is not None:
        targets += [Target.of(OPTIMISER, named) for named in every_optimiser_tensor(parts, optimiser)]
    try:
        load({}, storage_reader=ShardReader(folder, index), planner=TargetPlanner(targets), no_dist=True)
    except CheckpointException as error:  # which torch raises for whatever was raised on the way
        for cause, _ in error.failures.values():
            raise cause from None


def _read(path: Path, kind: type[Record]) -> Record:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise CheckpointError(f"{path.parent.name} is damaged", f"{path.name}: {error.strerror or error}") from None
    except UNREADABLE as error:
        raise CheckpointError(f"{path.parent.name} is damaged", f"{path.name}: {error}") from None


def _new_digest() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16)
