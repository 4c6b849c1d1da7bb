"""Where ranks stand, and how that is drawn."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest

from engine.contract.layout import Layout
from engine.contract.mesh import (
    axis_sizes,
    coordinate,
    data_rank,
    group,
    layers_at,
    micro_batch_of,
    rank_at,
    seat,
    stages_at,
)
from engine.contract.meshdrawing import draw_mesh
from engine.contract.pipelines import even_stages
from engine.contract.placing import AXES
from engine.contract.presets import resolve_shape
from engine.contract.spec import ModelSpec
from tests.engine.parallel_layouts import possible_layouts


def layout(hosts: tuple[str, ...] | None = None, **fields: Any) -> Layout:
    sizes = {axis: fields.pop(axis, 1) for axis in AXES}
    virtual = fields.get("virtual_stages", 1)
    if sizes["pp"] > 1:
        fields = {"schedule": "1f1b", "stages": even_stages(2 * sizes["pp"] * virtual, sizes["pp"] * virtual), **fields}
    per_host = prod(sizes.values()) // len(hosts or ("",))
    return Layout(
        strategy="hybrid", accelerator="cuda", hosts=hosts, micro_batch=1, accumulation=4, precision="fp32",
        **{"device_indices": tuple(range(per_host)), **sizes, **fields},
    )  # fmt: skip


CUBE = layout(pp=2, dp_replicate=2, dp_shard=3, cp=2, tp=2, hosts=("a", "b", "c"))


def test_coordinates_and_ranks_are_each_others_inverse() -> None:
    assert [rank_at(CUBE, coordinate(CUBE, rank)) for rank in range(48)] == list(range(48))
    assert coordinate(CUBE, 0) == (0, 0, 0, 0, 0)
    assert coordinate(CUBE, 1).tp == 1
    assert coordinate(CUBE, 47) == tuple(size - 1 for size in axis_sizes(CUBE))


@pytest.mark.parametrize("axis", AXES)
def test_the_groups_of_an_axis_are_a_partition(axis: str) -> None:
    groups = {group(CUBE, rank, axis) for rank in range(48)}
    assert sorted(rank for members in groups for rank in members) == list(range(48))
    for members in groups:
        assert [getattr(coordinate(CUBE, rank), axis) for rank in members] == list(range(getattr(CUBE, axis)))


def test_groups_are_those_of_torchs_mesh() -> None:
    import torch

    numbers = torch.arange(48).view(*axis_sizes(CUBE))
    for at, axis in enumerate(AXES):
        rows = numbers.movedim(at, -1).reshape(-1, getattr(CUBE, axis)).tolist()
        assert {group(CUBE, rank, axis) for rank in range(48)} == {tuple(row) for row in rows}


def test_seats_go_through_the_hosts_in_order() -> None:
    assert [seat(CUBE, rank) for rank in (0, 15, 16, 47)] == [(0, 0), (0, 15), (1, 0), (2, 15)]
    assert seat(layout(tp=2, device_indices=(3, 5)), 1) == (0, 5)


def test_ranks_of_one_sample_share_their_data_rank() -> None:
    uneven = layout(dp_replicate=2, dp_shard=2, tp=2, pp=2, micro_batches=(4, 3, 2, 1))
    assert [data_rank(uneven, rank) for rank in range(8)] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [micro_batch_of(uneven, rank) for rank in (0, 1, 7, 8, 15)] == [4, 4, 1, 4, 1]


@pytest.mark.parametrize(
    ("schedule", "virtual", "expected"),
    [("1f1b", 1, [(0,), (1,), (2,)]), ("interleaved-1f1b", 2, [(0, 3), (1, 4), (2, 5)]),
     ("zero-bubble-v", 2, [(0, 5), (1, 4), (2, 3)])],
)  # fmt: skip
def test_stages_go_round_the_ranks_or_there_and_back(
    schedule: str, virtual: int, expected: list[tuple[int, ...]]
) -> None:
    from torch.distributed.pipelining._utils import generate_stage_to_rank_mapping

    pipeline = layout(pp=3, schedule=schedule, virtual_stages=virtual, stages=(4, 3, 2, 1, 1, 1)[: 3 * virtual])
    assert [stages_at(pipeline, pp) for pp in range(3)] == expected
    style = "v" if schedule == "zero-bubble-v" else "loop"
    theirs = generate_stage_to_rank_mapping(3, 3 * virtual, style=style)
    assert theirs == {stage: pp for pp in range(3) for stage in stages_at(pipeline, pp)}
    layers = [layer for pp in range(3) for part in layers_at(pipeline, pp, 12) for layer in part]
    assert sorted(layers) == list(range(sum(pipeline.stages or ())))
    assert layers_at(layout(tp=2), 0, 7) == (range(7),)


def ranks_in(lines: list[str]) -> list[int]:
    """The ranks that a drawing shows: the first number of each cell in a box, header lines left out."""
    found = []
    for line in lines:
        for part in line.split("│")[1::2]:
            cells = part.split()
            if not cells[0].isdecimal():
                continue
            found += [int(cell) for cell in cells if cell.isdecimal()]
    return found


MODEL = ModelSpec(preset="llama-1m", layers=64, hidden=512, heads=64, kv_heads=64, feed_forward=512)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 8, 16, 64])
@pytest.mark.parametrize("width", [80, 48, 132])
def test_every_rank_is_drawn_once_and_no_line_is_too_long(world_size: int, width: int) -> None:
    shape = resolve_shape(MODEL, vocabulary=576, sequence_length=1152)
    seen = set()
    for plan in possible_layouts(world_size, shape, 1152, 2 * world_size):
        if plan.virtual_stages > 1 or (sizes := axis_sizes(plan)) in seen:
            continue
        seen.add(sizes)
        lines = draw_mesh(plan, 64, width, height=400)
        assert sorted(ranks_in(lines)) == list(range(world_size))
        assert max(map(len, lines)) <= width
        boxes = [line for line in lines if line.endswith(("│", "┐", "┘"))]
        assert {line[-1] for line in boxes} == {"│", "┐", "┘"}
        assert all(line.count("│") % 2 == 0 for line in boxes)


def test_what_is_left_out_is_counted() -> None:
    lines = draw_mesh(layout(pp=8, dp_shard=8, tp=8), 16, 80, height=20)
    shown = ranks_in(lines)
    assert shown == list(range(len(shown)))
    assert 0 < len(shown) < 512
    assert f"… and {512 - len(shown)} more ranks in the same order" in lines
    assert len(lines) < 25


def test_ascii_has_no_other_characters_and_the_same_form() -> None:
    plain, fancy = (draw_mesh(CUBE, 4, 80, unicode=unicode) for unicode in (False, True))
    assert all(line.isascii() for line in plain)
    assert len(plain) == len(fancy)


def test_a_drawing_says_host_device_and_layers() -> None:
    lines = draw_mesh(layout(pp=2, dp_shard=2, tp=2, hosts=("node1", "node2")), 4, 80)
    assert lines == [
        "hybrid · pp 2 × dp_shard 2 × tp 2 = 8 ranks · 1f1b, 4 micro-batches",
        "            ┌ pp 0 · layers 0-1 ───┐ ┌ pp 1 · layers 2-3 ───┐",
        "            │ tp 0       tp 1      │ │ tp 0       tp 1      │",
        "dp_shard 0  │ 0 node1:0  1 node1:1 │ │ 4 node2:0  5 node2:1 │",
        "dp_shard 1  │ 2 node1:2  3 node1:3 │ │ 6 node2:2  7 node2:3 │",
        "            └──────────────────────┘ └──────────────────────┘",
        "node1: ranks 0-3 on cuda 0-3",
        "node2: ranks 4-7 on cuda 0-3",
    ]


def test_a_row_that_goes_on_below_names_its_axis_once() -> None:
    lines = draw_mesh(layout(dp_replicate=8, micro_batches=(6, 2)), 6, 70)
    assert "micro-batches of 6, 2" in lines[0]
    assert [line.partition("│")[0] for line in lines[2:4]] == ["dp_replicate 0-3  ", "             4-7  "]
