"""The box of a tensor that a rank holds: where it begins in the whole tensor, and how large it is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.placement_types import Placement, _StridedShard


@dataclass(frozen=True, kw_only=True)
class Box:
    """A part of a tensor that is contiguous in each of its dimensions."""

    shape: tuple[int, ...]
    """Of the whole tensor."""
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def is_empty(self) -> bool:
        return math.prod(self.sizes) == 0


def box_of(tensor: Tensor) -> Box:
    """The box of ``tensor`` that this rank holds; the whole of a plain tensor.

    torch's own ``compute_local_shape_and_global_offset`` gives the first offset alone, which says too little where
    the parts of a strided placement are unequal. Raises ValueError for placements that are not cut with chunks.
    """
    shape = tuple(tensor.shape)
    if not isinstance(tensor, DTensor):
        return Box(shape=shape, offsets=(0,) * len(shape), sizes=shape)
    coordinate = tensor.device_mesh.get_coordinate()
    if coordinate is None:
        raise ValueError("this rank is not part of the tensor's mesh")
    offsets, sizes = cut(shape, tuple(tensor.device_mesh.shape), tuple(coordinate), tuple(tensor.placements))
    local = tuple(tensor.to_local().shape)
    if local != sizes and math.prod(local) + math.prod(sizes) > 0:
        raise ValueError(f"the part of shape {local} is not the {sizes} that {tensor.placements} says")
    return Box(shape=shape, offsets=offsets, sizes=sizes)


def cut(
    shape: tuple[int, ...],
    mesh_shape: tuple[int, ...],
    coordinate: tuple[int, ...],
    placements: tuple[Placement, ...],
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Offsets and sizes of what the rank at ``coordinate`` holds of a tensor with ``placements`` on a mesh.

    Plain shards are cut from left to right, as ``torch.chunk`` cuts: the last ones may be smaller or empty. Then come
    strided ones, from right to left: fully sharded data parallel cuts the part that tensor parallel left, and writes
    down that order as a ``_StridedShard`` to the left of the ``Shard``. So every rank holds one box.
    """
    offsets, sizes = [0] * len(shape), list(shape)
    strided = [axis for axis, placement in enumerate(placements) if isinstance(placement, _StridedShard)]
    plain = [axis for axis, placement in enumerate(placements) if _cuts(placement) and axis not in strided]
    for axis in [*plain, *reversed(strided)]:
        placement = placements[axis]
        assert isinstance(placement, Shard | _StridedShard)
        dim = placement.dim
        if isinstance(placement, _StridedShard):
            later = [size for size, right in _right_of(axis, mesh_shape, placements) if _cuts(right, dim)]
            if placement.split_factor != math.prod(later):
                raise ValueError(f"{placement} cuts no boxes on a mesh of shape {mesh_shape}")
        begin, end = chunk_bounds(sizes[dim], mesh_shape[axis], coordinate[axis])
        offsets[dim] += begin
        sizes[dim] = end - begin
    sums = [placement for placement in placements if placement.is_partial()]
    if sums:
        raise ValueError(f"{sums[0]} is a sum that nobody has taken yet")
    return tuple(offsets), tuple(sizes)


def chunk_bounds(length: int, chunks: int, index: int) -> tuple[int, int]:
    """Where piece ``index`` of ``torch.chunk(..., chunks)`` begins and ends; empty at the end where there are fewer."""
    size = -(-length // chunks)
    return min(index * size, length), min((index + 1) * size, length)


def _right_of(axis: int, mesh_shape: tuple[int, ...], placements: tuple[Placement, ...]) -> list[tuple[int, Placement]]:
    return list(zip(mesh_shape[axis + 1 :], placements[axis + 1 :], strict=True))


def _cuts(placement: Placement, dim: int | None = None) -> bool:
    return isinstance(placement, Shard | _StridedShard) and (dim is None or placement.dim == dim)
