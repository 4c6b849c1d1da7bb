"""How ``torch.distributed.checkpoint`` writes our checkpoints and reads them: safetensors and JSON, never a pickle.

torch has a writer and a reader of safetensors itself (``hf_storage``). Ours differ in what a long training needs: a
file is written from the tensors one after the other and not composed in memory first, its digest is taken from the
same bytes on their way, it is synced, and it may go to another host.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, distributed
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem, SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from engine.contract.errors import CheckpointError
from engine.contract.rundir import FileDigest
from engine.training.checkpoint_index import (
    DTYPE_NAMES,
    Index,
    file_name,
    index_from_plan,
    plan_from_index,
    split_key,
)
from engine.training.checkpoint_transfer import PIECE_BYTES, TransferError, bytes_of, cut_pieces, receive, send, stop

WRITE_BYTES = 4 << 20
"""Written and digested at once: small enough to stay in a core's cache between the two."""


Finish = Callable[[Index, Mapping[str, FileDigest]], None]
"""What is done once all pieces are written: with the index and the digests of the files."""


class ShardWriter(StorageWriter):
    """Writes the pieces of this rank to ``folder``, or sends them to rank 0, which completes the checkpoint."""

    def __init__(self, folder: Path, apart: Sequence[int], group: ProcessGroup | None, finish: Finish) -> None:
        """``apart``: the ranks that do not see ``folder``."""
        self._folder = folder
        self._apart = apart
        self._group = group
        self._finish = finish
        self._rank = distributed.get_rank(group) if group is not None else 0
        self._size = distributed.get_world_size(group) if group is not None else 1
        self._plans: list[SavePlan] = []
        self._received: dict[str, FileDigest] = {}

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing to do: a writer is made for one checkpoint."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        if is_coordinator:
            self._folder.parent.mkdir(mode=0o700, exist_ok=True)
            self._folder.mkdir(mode=0o700)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        self._plans = plans
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write or send; rank 0 also collects what others send, even where its own writing failed."""
        results: list[WriteResult] = []
        problem: Exception | None = None
        for name, items in files_of(plan, self._rank, self._size).items():
            try:
                digest = self._put(name, _pieces_of(items, planner, problem))
            except Exception as error:
                problem = problem or error
                continue
            results += [WriteResult(index=item.index, size_in_bytes=0, storage_data=(name, digest)) for item in items]
        if self._rank == 0:
            for source in self._apart:
                for name in files_of(self._plans[source], source, self._size):
                    problem = self._collect(name, source, problem)
        if problem is not None:
            raise problem
        future: Future[list[WriteResult]] = Future()
        future.set_result(results)
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        files: dict[MetadataIndex, str] = {}
        digests = dict(self._received)
        for result in itertools.chain.from_iterable(results):
            name, digest = result.storage_data
            files[result.index] = name
            if digest is not None:
                digests[name] = digest
        self._finish(index_from_plan(metadata, files), digests)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return False  # it cannot be made from a name alone

    def _put(self, name: str, pieces: Iterator[Tensor]) -> FileDigest | None:
        """Where the pieces of a file of this rank go; its digest, unless it went to another host."""
        if self._rank not in self._apart:
            return write_file(self._folder / name, cut_pieces(pieces, WRITE_BYTES))
        assert self._group is not None
        send(cut_pieces(pieces, PIECE_BYTES), 0, self._group)
        return None

    def _collect(self, name: str, source: int, problem: Exception | None) -> Exception | None:
        """Write what rank ``source`` sends for the file ``name``; the first problem there is."""
        assert self._group is not None
        if problem is not None:
            stop(source, self._group)
            return problem
        try:
            self._received[name] = write_file(self._folder / name, receive(source, self._group))
        except TransferError as error:
            return error
        except OSError as error:
            stop(source, self._group)
            return error
        return None


def files_of(plan: SavePlan, rank: int, world_size: int) -> dict[str, list[WriteItem]]:
    """The files that ``rank`` has to write by ``plan``, and what goes into each."""
    files: dict[str, list[WriteItem]] = {}
    for item in plan.items:
        group, _ = split_key(item.index.fqn)
        files.setdefault(file_name(group, rank, world_size), []).append(item)
    return files


def write_file(path: Path, pieces: Iterable[Tensor]) -> FileDigest:
    """Write uint8 ``pieces`` to a new file of mode 0600 and sync it; digest and size of what was written.

    Raises OSError, for a full disk for example.
    """
    digest = hashlib.blake2b(digest_size=16)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "wb", buffering=0) as stream:
        for piece in pieces:
            view = bytes_of(piece)
            digest.update(view)
            while view:  # a write may do less than it was asked to
                view = view[stream.write(view) :]
        os.fsync(stream.fileno())
        return FileDigest(bytes=stream.tell(), digest=digest.hexdigest())


def _pieces_of(items: list[WriteItem], planner: SavePlanner, problem: Exception | None) -> Iterator[Tensor]:
    """A safetensors file as CPU tensors: its header, and after it the data, the widest types first.

    So each tensor begins at a multiple of its width. Raises ``problem`` if there is one: a receiver is told so.
    """
    if problem is not None:
        raise problem
    tensors = {}
    for item in items:
        tensor = planner.resolve_data(item)
        assert isinstance(tensor, Tensor)
        tensors[split_key(item.index.fqn)[1]] = tensor
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name in sorted(tensors, key=lambda name: (-tensors[name].itemsize, name)):
        tensor = tensors[name]
        end = begin + tensor.numel() * tensor.itemsize
        header[name] = {"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield torch.frombuffer(bytearray(len(text).to_bytes(8, "little") + text), dtype=torch.uint8)
    for name in list(header)[1:]:
        yield tensors[name]


class ShardReader(StorageReader):
    """Reads from the files of ``folder`` only the ranges that a rank needs."""

    def __init__(self, folder: Path, index: Index) -> None:
        self._folder = folder
        self._metadata = plan_from_index(index)

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing to do: a reader is made for one checkpoint."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return self._metadata

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: all is known."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Copy the ranges into their places. Raises CheckpointError naming the file that cannot be read."""
        files: dict[str, list[ReadItem]] = {}
        for item in plan.items:
            files.setdefault(self._metadata.storage_data[item.storage_index], []).append(item)
        for name, items in files.items():
            try:
                with safe_open(self._folder / name, framework="pt") as file:
                    for item in items:
                        _read(file, item, planner)
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{self._folder.name} is damaged", f"{name}: {error}") from error
        future: Future[None] = Future()
        future.set_result(None)
        return future

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return False  # it cannot be made from a name alone


def _read(file: Any, item: ReadItem, planner: LoadPlanner) -> None:
    _, name = split_key(item.storage_index.fqn)
    if item.lengths:
        box = tuple(
            slice(begin, begin + length) for begin, length in zip(item.storage_offsets, item.lengths, strict=True)
        )
        values = file.get_slice(name)[box]
    else:
        values = file.get_tensor(name)  # a number: there is nothing to cut
    target = planner.resolve_tensor(item)
    target.copy_(values)
    planner.commit_tensor(item, target)
