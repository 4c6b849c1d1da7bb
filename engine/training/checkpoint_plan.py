"""Which rank saves which piece, and which ranges of a checkpoint a rank needs: planners for DCP."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.distributed._shard._utils import narrow_tensor_by_index
from torch.distributed.checkpoint._dedup_save_plans import dedup_save_plans
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from engine.contract.errors import CheckpointError
from engine.parallel.dtensors import shard
from engine.training.checkpoint_boxes import Box, box_of
from engine.training.tensors import Named

OTHER_MODEL = "The checkpoint is of another model"


def offered(groups: Mapping[str, Iterable[Named]]) -> dict[str, Tensor]:
    """What this rank could save, by ``<group>/<name>``: each tensor of which it holds something, once."""
    found: dict[str, Tensor] = {}
    for group, members in groups.items():
        for name, tensor, is_copy in members:
            if not is_copy and not box_of(tensor).is_empty:
                found.setdefault(f"{group}/{name}", tensor)
    return found


def write_items(tensors: Mapping[str, Tensor]) -> list[WriteItem]:
    """One item for what this rank holds of each of ``tensors``."""
    items = []
    for key, tensor in tensors.items():
        box = box_of(tensor)
        items.append(
            WriteItem(
                index=MetadataIndex(key, box.offsets),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(
                    chunk=_chunk(box),
                    properties=TensorProperties(dtype=tensor.dtype),
                    size=torch.Size(box.shape),
                ),
            )
        )
    return items


def share_out(offers: Sequence[list[WriteItem]]) -> list[list[WriteItem]]:
    """For each rank what it saves of what it offered: every piece once, with little to write for each."""
    return [plan.items for plan in dedup_save_plans([SavePlan(items) for items in offers])]


class OwnPlanner(DefaultSavePlanner):
    """Saves the items that this rank was given, from their copies in host memory."""

    def __init__(self, items: list[WriteItem], copies: Mapping[str, Tensor], ready: Callable[[], None]) -> None:
        """``ready`` returns when the copies are complete, and raises what kept them from being made."""
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._items = items
        self._copies = copies
        self._ready = ready

    def create_local_plan(self) -> SavePlan:
        self._ready()
        return SavePlan(self._items)

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        return self._copies[write_item.index.fqn]


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where values are wanted: what this rank holds of a tensor."""

    key: str
    """``<group>/<name>``, as in the plan of the checkpoint."""
    box: Box
    local: Tensor

    @classmethod
    def of(cls, group: str, named: Named) -> Target:
        return cls(key=f"{group}/{named.name}", box=box_of(named.tensor), local=shard(named.tensor))


class TargetPlanner(LoadPlanner):
    """Reads what ``targets`` need; several may want the same range."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = targets
        self._metadata: Metadata | None = None

    def set_up_planner(
        self, state_dict: dict[str, Any], metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        self._metadata = metadata

    def create_local_plan(self) -> LoadPlan:
        """Raises CheckpointError where a tensor is missing, of another shape, or has a hole where it is wanted."""
        assert self._metadata is not None
        items: list[ReadItem] = []
        for number, target in enumerate(self._targets):
            if target.box.is_empty:
                continue
            name = target.key.partition("/")[2]
            saved = self._metadata.state_dict_metadata.get(target.key)
            if not isinstance(saved, TensorStorageMetadata):
                raise CheckpointError(OTHER_MODEL, f"the checkpoint lacks tensor {name}")
            if tuple(saved.size) != target.box.shape:
                raise CheckpointError(
                    OTHER_MODEL, f"{name} is {tuple(saved.size)} in the checkpoint and {target.box.shape} in the model"
                )
            reads = create_read_items_for_chunk_list(target.key, saved, [_chunk(target.box)])
            if sum(math.prod(item.lengths) for item in reads) != math.prod(target.box.sizes):
                raise CheckpointError("The checkpoint is damaged", f"it has only a part of tensor {name}")
            items += [replace(item, dest_index=replace(item.dest_index, index=number)) for item in reads]
        return LoadPlan(items)

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        return global_plan

    def finish_plan(self, new_plan: LoadPlan) -> LoadPlan:
        return new_plan

    def load_bytes(self, read_item: ReadItem, value: Any) -> None:
        raise AssertionError("our checkpoints hold nothing but tensors")

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        number = read_item.dest_index.index
        assert number is not None
        return narrow_tensor_by_index(self._targets[number].local, read_item.dest_offsets, read_item.lengths)

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
        """Nothing to do: the values were copied into the target's own memory."""


def _chunk(box: Box) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(offsets=torch.Size(box.offsets), sizes=torch.Size(box.sizes))
