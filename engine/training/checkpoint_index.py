"""``tensors.json``: which piece of which tensor lies in which file of a checkpoint.

JSON in place of the ``.metadata`` of ``torch.distributed.checkpoint``, which is a pickle. The pieces themselves are
in ordinary safetensors files, under the name of their tensor, one piece of a tensor in a file at most.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
import torch
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from engine.contract.errors import CheckpointError
from engine.contract.records import UNREADABLE

INDEX = "tensors.json"
MODEL, OPTIMISER = "model", "optimiser"
"""The two groups of tensors, each in files of its own: who wants the model alone reads nothing else."""
SUFFIX = ".safetensors"

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """A box of a tensor and the file that holds it."""

    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    file: str


class SavedTensor(msgspec.Struct, frozen=True, kw_only=True):
    """A whole tensor, in pieces that do not overlap and leave nothing out."""

    dtype: str
    """As safetensors names it: ``F32``, ``BF16`` ..."""
    shape: tuple[int, ...]
    pieces: list[Piece]


Index = dict[str, dict[str, SavedTensor]]
"""Group -> name of the tensor -> where it is."""


def file_name(group: str, rank: int, world_size: int) -> str:
    """Where a rank writes its pieces of a group; a single one writes ``model.safetensors``."""
    return f"{group}{SUFFIX}" if world_size == 1 else f"{group}-{rank}{SUFFIX}"


def group_of(file: str) -> str:
    """The group whose pieces are in a file of that name; empty if it holds none."""
    return file.removesuffix(SUFFIX).partition("-")[0] if file.endswith(SUFFIX) else ""


def split_key(key: str) -> tuple[str, str]:
    """Group and name of a tensor from the one name that a plan has for both: ``model/head.weight``."""
    group, _, name = key.partition("/")
    return group, name


def index_from_plan(metadata: Metadata, files: Mapping[MetadataIndex, str]) -> Index:
    """The index of a checkpoint that was saved as planned, each piece into the file that ``files`` names."""
    index: Index = {MODEL: {}, OPTIMISER: {}}
    for key, tensor in sorted(metadata.state_dict_metadata.items()):
        assert isinstance(tensor, TensorStorageMetadata)
        group, name = split_key(key)
        index[group][name] = SavedTensor(
            dtype=DTYPE_NAMES[tensor.properties.dtype],
            shape=tuple(tensor.size),
            pieces=[
                Piece(
                    offsets=tuple(chunk.offsets),
                    shape=tuple(chunk.sizes),
                    file=files[MetadataIndex(key, chunk.offsets)],
                )
                for chunk in tensor.chunks
            ],
        )
    return index


def plan_from_index(index: Index) -> Metadata:
    """What the index says, in the words of ``torch.distributed.checkpoint``; ``storage_data`` names the files."""
    tensors = {f"{group}/{name}": tensor for group, named in index.items() for name, tensor in named.items()}
    return Metadata(
        state_dict_metadata={
            key: TensorStorageMetadata(
                properties=TensorProperties(dtype=DTYPES[tensor.dtype]),
                size=torch.Size(tensor.shape),
                chunks=[
                    ChunkStorageMetadata(offsets=torch.Size(piece.offsets), sizes=torch.Size(piece.shape))
                    for piece in tensor.pieces
                ],
            )
            for key, tensor in tensors.items()
        },
        storage_data={
            MetadataIndex(key, piece.offsets): piece.file for key, tensor in tensors.items() for piece in tensor.pieces
        },
    )


def encode_index(index: Index) -> bytes:
    """The content of ``tensors.json``."""
    return msgspec.json.encode(index)


def read_index(folder: Path, files: Iterable[str], groups: Sequence[str] = (MODEL, OPTIMISER)) -> Index:
    """The index of the checkpoint in ``folder``, which holds ``files``: of ``groups``, and perhaps more.

    Raises CheckpointError where it is damaged. The first form of checkpoints has none: there every tensor is whole, in
    the one file of its group.
    """
    names = set(files)
    if INDEX not in names:
        return {group: _whole_tensors(folder / file_name(group, 0, 1)) for group in groups}
    try:
        index = msgspec.json.decode((folder / INDEX).read_bytes(), type=Index)
    except OSError as error:
        raise CheckpointError(f"{folder.name} is damaged", f"{INDEX}: {error.strerror or error}") from None
    except UNREADABLE as error:
        raise CheckpointError(f"{folder.name} is damaged", f"{INDEX}: {error}") from None
    for tensors in index.values():
        for name, tensor in tensors.items():
            if tensor.dtype not in DTYPES:
                raise CheckpointError(f"{folder.name} is damaged", f"{INDEX}: {name} has the type {tensor.dtype}")
            for piece in tensor.pieces:
                if piece.file not in names:
                    raise CheckpointError(f"{folder.name} is damaged", f"{INDEX}: {name} is in {piece.file!r}")
    return index


def _whole_tensors(path: Path) -> dict[str, SavedTensor]:
    """What the header of a safetensors file says: eight bytes of its length, and JSON."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return {
            name: SavedTensor(
                dtype=entry["dtype"],
                shape=tuple(entry["shape"]),
                pieces=[Piece(offsets=(0,) * len(entry["shape"]), shape=tuple(entry["shape"]), file=path.name)],
            )
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except OSError as error:
        raise CheckpointError(f"{path.parent.name} is damaged", f"{path.name}: {error.strerror or error}") from None
    except (*UNREADABLE, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path.parent.name} is damaged", f"{path.name}: {error}") from None
