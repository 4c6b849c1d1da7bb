"""Files between hosts that share no file system, in pieces of a bounded size over a CPU process group.

The receiver asks for every piece, so that one whose disk is full can stop the sender at once, and neither ever waits
for a message that the other will not send.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup

PIECE_BYTES = 64 << 20
"""Largest piece that is sent at once: what a transfer needs of memory on either side."""
NEXT, STOP = 1, 0
END, FAILED = 0, -1


class TransferError(OSError):
    """The other side could not go on with a file."""


def cut_pieces(tensors: Iterable[Tensor], piece_bytes: int) -> Iterator[Tensor]:
    """The bytes of contiguous CPU ``tensors`` one after the other, as uint8 views of at most ``piece_bytes``."""
    for tensor in tensors:
        flat = tensor.reshape(-1).view(torch.uint8)
        for begin in range(0, flat.numel(), piece_bytes):
            yield flat[begin : begin + piece_bytes]


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a uint8 CPU tensor."""
    return memoryview(tensor.numpy())  # type: ignore[arg-type]  # arrays are buffers, which numpy's stubs do not say


def file_pieces(path: Path, piece_bytes: int) -> Iterator[Tensor]:
    """The bytes of a file, in one buffer that is used again for each piece. Raises OSError."""
    buffer = torch.empty(piece_bytes, dtype=torch.uint8)
    view = bytes_of(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(view):
            yield buffer[:count]


def send(pieces: Iterator[Tensor], to: int, group: ProcessGroup) -> None:
    """Answer the questions of rank ``to`` until all ``pieces`` are sent. Raises what making them raises, after telling.

    Raises TransferError where the other side wants no more.
    """
    while True:
        if _receive_number(to, group) == STOP:
            raise TransferError("the rank that collects the files stopped")
        try:
            piece = next(pieces, None)
        except BaseException:
            _send_number(FAILED, to, group)
            raise
        if piece is None:
            _send_number(END, to, group)
            return
        _send_number(piece.numel(), to, group)
        distributed.send(piece, dst=to, group=group)


def receive(source: int, group: ProcessGroup) -> Iterator[Tensor]:
    """The pieces that rank ``source`` sends; what is yielded is overwritten by the next one.

    Raises TransferError where the sender fails. To be closed by ``stop`` if it is not read to its end.
    """
    buffer = torch.empty(0, dtype=torch.uint8)
    while True:
        _send_number(NEXT, source, group)
        count = _receive_number(source, group)
        if count == END:
            return
        if count == FAILED:
            raise TransferError(f"rank {source} could not send its part")
        if buffer.numel() < count:
            buffer = torch.empty(count, dtype=torch.uint8)
        distributed.recv(buffer[:count], src=source, group=group)
        yield buffer[:count]


def stop(source: int, group: ProcessGroup) -> None:
    """Tell a sender that waits for a question that there will be none."""
    _send_number(STOP, source, group)


def leaders(folder: Path, name: str, group: ProcessGroup) -> list[int]:
    """For each rank the lowest one that sees the same ``folder``: all the same where the file system is shared.

    Each tries to create the file ``name``, which must be new, rank 0 first: who finds it there already reads whose it
    is. (A name that nobody has looked for yet is in no cache of a network file system.) Where rank 0 cannot create
    anything, all are taken to see its folder: saving will fail there, and say why.
    """
    rank, size = distributed.get_rank(group), distributed.get_world_size(group)
    path = folder / name
    is_mine = rank == 0 and _claim(path, rank)
    can_claim = torch.tensor(int(is_mine))
    distributed.broadcast(can_claim, src=0, group=group)
    if not can_claim:
        return [0] * size
    if rank != 0:
        is_mine = _claim(path, rank)
    distributed.barrier(group)
    leader = rank
    if not is_mine:
        with suppress(OSError, ValueError):
            leader = int(path.read_text())
    numbers = torch.zeros(size, dtype=torch.int64)
    numbers[rank] = leader
    distributed.all_reduce(numbers, group=group)
    if is_mine:
        path.unlink(missing_ok=True)
    return [int(number) for number in numbers]


def _claim(path: Path, rank: int) -> bool:
    """Create ``path`` with this rank's number; False where it is there already or cannot be created."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError:
        return False
    with os.fdopen(file, "w") as stream:
        stream.write(str(rank))
    return True


def _send_number(number: int, to: int, group: ProcessGroup) -> None:
    distributed.send(torch.tensor([number], dtype=torch.int64), dst=to, group=group)


def _receive_number(source: int, group: ProcessGroup) -> int:
    number = torch.zeros(1, dtype=torch.int64)
    distributed.recv(number, src=source, group=group)
    return int(number)
