"""The mesh as it is drawn: every rank once, at its place, within its cells; and its words."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from engine.contract.layout import Layout
from engine.contract.spec import Schedule
from tui.mesh import layer_words, mesh_rows, mesh_words, place_words, seats_of
from tui.text import cell_width
from tui.widgets.glyphs import ASCII, UNICODE


def layout(
    *, hosts: tuple[str, ...] | None = None, devices: tuple[int, ...] | None = None,
    stages: tuple[int, ...] | None = None, schedule: Schedule | None = None, **sizes: int,
) -> Layout:  # fmt: skip
    ranks = 1
    for size in sizes.values():
        ranks *= size
    return Layout(
        strategy="hybrid", accelerator="cuda", device_indices=devices or tuple(range(ranks // len(hosts or ("",)))),
        hosts=hosts, stages=stages, schedule=schedule, virtual_stages=len(stages or ()) // sizes.get("pp", 1) or 1,
        micro_batch=1, accumulation=1, precision="fp32", **sizes,
    )  # fmt: skip


def drawn(made: Layout, width: int = 60, height: int = 20) -> list[str]:
    return ["".join(words for words, _ in row).rstrip() for row in mesh_rows(made, width, height, ASCII)]


def test_the_fastest_axis_goes_to_the_right_and_a_pipeline_down_beside_its_layers() -> None:
    made = layout(pp=2, dp_replicate=2, tp=2, stages=(3, 2), schedule="1f1b")
    assert drawn(made) == [
        "       tp   0   1",
        "pp 0 dp 0 | 0 | 1 | layers 0-2",
        "     dp 1 | 2 | 3 |",
        "pp 1 dp 0 | 4 | 5 | layers 3-4",
        "     dp 1 | 6 | 7 |",
    ]
    assert drawn(layout(pp=2, stages=(3, 1), schedule="1f1b")) == ["pp 0 | 0 | layers 0-2", "pp 1 | 1 | layer 3"]
    assert drawn(layout(dp_shard=3)) == ["fsdp | 0 | 1 | 2 |"]
    assert drawn(layout()) == []


def test_what_does_not_fit_is_said_to_be_there() -> None:
    made = layout(pp=4, dp_shard=8, tp=8, stages=(1, 1, 1, 1), schedule="gpipe")
    lines = drawn(made, 34, 6)
    assert len(lines) == 6
    assert lines[-1] == "and 224 more ranks"
    assert re.fullmatch(r"pp 0 fsdp 0 \|  0  .*\|  ~  \|  7  \|.*", lines[1])


def test_hosts_and_chosen_devices_are_named() -> None:
    assert drawn(layout(dp_replicate=2, dp_shard=2, hosts=("atelier", "nas")))[-2:] == [
        "atelier: ranks 0-1",
        "nas: ranks 2-3",
    ]
    assert drawn(layout(tp=4, devices=(0, 1, 2, 6)))[-1] == "devices 0-2, 6"


def test_stages_of_one_rank_lie_apart_or_folded() -> None:
    looped = layout(pp=2, stages=(2, 2, 1, 1), schedule="interleaved-1f1b")
    assert [layer_words(looped, place) for place in range(2)] == ["layers 0-1, 4", "layers 2-3, 5"]
    folded = layout(pp=2, stages=(2, 2, 1, 1), schedule="zero-bubble-v")
    assert [layer_words(folded, place) for place in range(2)] == ["layers 0-1, 5", "layers 2-3, 4"]


def test_places_and_sizes_in_words() -> None:
    made = layout(pp=2, dp_shard=2, tp=3)
    assert mesh_words(made) == "pp 2 x fsdp 2 x tp 3"
    assert place_words(made, 7) == "pp 1, fsdp 0, tp 1"
    assert place_words(made, 12) == place_words(layout(), 0) == ""


def test_devices_and_ranks_of_each_host_have_their_seats() -> None:
    made = layout(dp_replicate=2, tp=2, hosts=("nas", "localhost"), devices=(1, 3))
    nas, here = seats_of(made, "nas"), seats_of(made, "atelier")
    assert nas is not None
    assert here is not None
    assert [nas.of_device(index) for index in (0, 1, 3)] == ["", "dp 0, tp 0", "dp 0, tp 1"]
    assert [here.of_device(index) for index in (0, 1, 3)] == ["", "dp 1, tp 0", "dp 1, tp 1"]
    assert here.of_rank(3) == "dp 1, tp 1"
    stranger = seats_of(layout(tp=2, hosts=("nas", "other")), "atelier")
    assert stranger is not None
    assert stranger.of_device(0) == ""
    assert seats_of(None, "atelier") is None


SIZE = st.integers(1, 5)


@settings_of_hypothesis(max_examples=60, deadline=None)
@given(pp=SIZE, dp_replicate=SIZE, dp_shard=SIZE, cp=SIZE, tp=SIZE, width=st.integers(0, 90), height=st.integers(0, 30))
def test_every_rank_is_drawn_once_and_nothing_outside_the_cells(
    pp: int, dp_replicate: int, dp_shard: int, cp: int, tp: int, width: int, height: int
) -> None:
    made = layout(pp=pp, dp_replicate=dp_replicate, dp_shard=dp_shard, cp=cp, tp=tp)
    rows = mesh_rows(made, width, height, UNICODE)
    assert len(rows) <= max(0, height)
    assert all(sum(cell_width(text) for text, _ in row) <= width for row in rows)
    whole = drawn(made, 90, 1000)
    ranks = [int(word) for line in whole for word in re.findall(r"(?<=\|)\s*(\d+)\s*(?=\|)", line)]
    assert ranks == list(range(made.world_size)) or made.world_size == 1
