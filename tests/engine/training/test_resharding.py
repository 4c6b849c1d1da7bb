"""A checkpoint of any layout, read under any other: every value is where it belongs, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.contract.rundir import RunDirectory
from engine.training.checkpointer import Checkpointer, Failed
from tests.engine.processes import run_ranks
from tests.engine.training.sharded import LAYOUTS, POSITION, content, held, known_optimiser, split, whole_model


def save_under(layout: str, folder: Path, kind: str = "adamw") -> None:
    parts = split(layout, whole_model())
    checkpointer = Checkpointer(RunDirectory(folder))
    checkpointer.begin(parts, known_optimiser(parts, kind), content(kind), POSITION, 1.25)
    for result in checkpointer.wait():
        assert not isinstance(result, Failed), result.error


def load_under(layout: str, folders: list[Path], kind: str = "adamw") -> int:
    """Read each checkpoint into spoilt parts and compare them with what they were; how many tensors this rank has."""
    parts = split(layout, whole_model())
    optimiser = known_optimiser(parts, kind)
    before = [(name, tensor.clone()) for name, tensor in held(parts, optimiser)]
    for folder in folders:
        for _, tensor in held(parts, optimiser):
            tensor.fill_(-1)
        if kind != "adamw":
            optimiser.state.clear()  # as it is when a run is resumed
        manifest = Checkpointer(RunDirectory(folder)).load("step-7", parts, content(kind), optimiser)
        assert (manifest.step, manifest.samples, manifest.tokens, manifest.validation_loss) == (7, 56, 560, 1.25)
        after = held(parts, optimiser)
        assert [name for name, _ in after] == [name for name, _ in before]
        for (name, was), (_, now) in zip(before, after, strict=True):
            assert torch.equal(was, now), f"{name} from {folder.name}: {was} became {now}"
    return len(before)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run for each layout, with a checkpoint that was written under it."""
    folders = {}
    for layout, ranks in LAYOUTS.items():
        folders[layout] = tmp_path_factory.mktemp("runs") / layout.replace(" ", "-")
        folders[layout].mkdir()
        run_ranks(ranks, save_under, layout, folders[layout], group=ranks > 1)
    return folders


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_reads_what_every_layout_wrote(saved, layout):
    ranks = LAYOUTS[layout]
    assert all(run_ranks(ranks, load_under, layout, list(saved.values()), group=ranks > 1))
