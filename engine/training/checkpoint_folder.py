"""The folder of a checkpoint as a whole: completed and put in place, and carried to a host that lacks it."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from torch import distributed
from torch.distributed import ProcessGroup

from engine.contract.durable import sync_folder, write_durably
from engine.contract.errors import CheckpointError
from engine.contract.rundir import CHECKPOINT_MANIFEST, CheckpointManifest, FileDigest
from engine.training.checkpoint import CONTENT, SCHEMA, Content, Position, digest_file, read_manifest
from engine.training.checkpoint_index import INDEX, Index, encode_index
from engine.training.checkpoint_storage import write_file
from engine.training.checkpoint_transfer import PIECE_BYTES, TransferError, file_pieces, receive, send, stop


def complete_folder(
    aside: Path,
    name: str,
    index: Index,
    files: Mapping[str, FileDigest],
    content: Content,
    position: Position,
    validation_loss: float | None,
) -> CheckpointManifest:
    """Write what makes ``aside``, with the tensors in it, a checkpoint, and rename it to ``name``. Raises OSError."""
    own = {INDEX: encode_index(index), CONTENT: msgspec.json.format(msgspec.json.encode(content))}
    for file, text in own.items():
        write_durably(aside / file, text)
    manifest = CheckpointManifest(
        schema=SCHEMA,
        **msgspec.structs.asdict(position),
        validation_loss=validation_loss,
        files={**dict(sorted(files.items())), **{file: digest_file(aside / file) for file in own}},
    )
    write_durably(aside / CHECKPOINT_MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))
    _put_in_place(aside, aside.with_name(name))
    return manifest


def offer_folder(folder: Path, to: Sequence[int], group: ProcessGroup) -> None:
    """Send the checkpoint in ``folder`` to each rank in ``to``; all ranks of ``group`` have to fetch it.

    Raises CheckpointError where a file cannot be read. A receiver that stops says itself why.
    """
    try:
        names = [CHECKPOINT_MANIFEST, *read_manifest(folder).files]
    except CheckpointError:
        distributed.broadcast_object_list([None], src=0, group=group)
        raise
    distributed.broadcast_object_list([names], src=0, group=group)
    problem: OSError | None = None
    for rank in to:
        for name in names:
            try:
                send(file_pieces(folder / name, PIECE_BYTES), rank, group)
            except TransferError:
                continue
            except OSError as error:
                problem = error
    if problem is not None:
        raise CheckpointError(f"{folder.name} is damaged", str(problem))


def fetch_folder(place: Path, group: ProcessGroup, *, to_keep: bool) -> None:
    """Receive into ``place`` what rank 0 offers; a rank that is not ``to_keep`` it only listens to what it is.

    Raises CheckpointError where it cannot be written, or is not what its manifest says.
    """
    told: list[list[str] | None] = [None]
    distributed.broadcast_object_list(told, src=0, group=group)
    names = told[0]
    if names is None or not to_keep:
        return
    found: dict[str, FileDigest] = {}
    problem: OSError | None = None
    try:
        place.mkdir(mode=0o700, parents=True)
    except OSError as error:
        problem = error
    for name in names:
        if problem is None:
            try:
                found[name] = write_file(place / name, receive(0, group))
            except TransferError as error:
                problem = error
                continue
            except OSError as error:
                problem = error
            else:
                continue
        stop(0, group)
    if problem is not None:
        shutil.rmtree(place, ignore_errors=True)
        raise CheckpointError(
            "The checkpoint could not be copied to this host", str(problem), f"Make room on the disk of {place.parent}"
        )
    for name, expected in read_manifest(place).files.items():
        if found[name] != expected:
            raise CheckpointError(f"{place.name} is damaged", f"{name} is not what was written")


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
