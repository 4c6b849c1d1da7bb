"""A checkpoint of any layout, read under any other: every value is where it belongs, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from msgspec.structs import replace

from engine.contract.rundir import RunDirectory
from engine.training.checkpointer import Checkpointer, Saved
from tests.engine.processes import run_ranks
from tests.engine.training.sharded import LAYOUTS, POSITION, content, held, known_optimiser, split, whole_model


class Case(NamedTuple):
    """A checkpoint that is written, and read, under ``layout`` with the memory of the optimiser ``kind``."""

    layout: str
    kind: str
    step: int
    """By which it is known."""


OTHERS = ("single", "pp2", "fsdp2", "hsdp4", "fsdp2 x tp2")
"""Where optimisers with another memory are tried: as large as the parameter or smaller, split or plain."""
PAIRS = [(layout, "adamw") for layout in LAYOUTS]
PAIRS += [(layout, kind) for kind in ("sgd", "adafactor", "muon") for layout in OTHERS]
CASES = [Case(layout, kind, step) for step, (layout, kind) in enumerate(PAIRS)]


def cases_of(ranks: int) -> list[Case]:
    return [case for case in CASES if LAYOUTS[case.layout] == ranks]


def save_under(cases: list[Case], folder: Path) -> None:
    checkpointer = Checkpointer(RunDirectory(folder))
    for case in cases:
        parts = split(case.layout, whole_model())
        optimiser = known_optimiser(parts, case.kind)
        checkpointer.begin(parts, optimiser, content(case.kind), replace(POSITION, step=case.step), 1.25)
    results = checkpointer.wait()
    assert [(type(result), result.step) for result in results] == [(Saved, case.step) for case in cases]


def load_under(cases: list[Case], folder: Path) -> int:
    """Read checkpoints with the same kind of optimiser into spoilt parts, and compare with what they were."""
    checkpointer = Checkpointer(RunDirectory(folder))
    count = 0
    for case in cases:
        parts = split(case.layout, whole_model())
        optimiser = known_optimiser(parts, case.kind)
        before = [(name, tensor.clone()) for name, tensor in held(parts, optimiser)]
        for written in CASES:
            if not reads(case, written):
                continue
            for _, tensor in held(parts, optimiser):
                tensor.fill_(-1)
            if count % 2:
                optimiser.state.clear()  # as it is when a run is resumed
            manifest = checkpointer.load(f"step-{written.step}", parts, content(case.kind), optimiser)
            assert (manifest.step, manifest.samples, manifest.tokens) == (written.step, 56, 560)
            assert manifest.validation_loss == 1.25
            after = held(parts, optimiser)
            assert sorted(name for name, _ in after) == sorted(name for name, _ in before)
            for (name, was), (_, now) in zip(sorted(before, key=by_name), sorted(after, key=by_name), strict=True):
                assert torch.equal(was, now), f"{name} under {case} from {written}: {was} became {now}"
            count += 1
    return count


def reads(case: Case, written: Case) -> bool:
    """Every third pair: each layout reads what four or five others wrote, and is read by as many."""
    return written.kind == case.kind and (written.step + case.step) % 3 == 0


def by_name(item: tuple[str, torch.Tensor]) -> str:
    return item[0]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the checkpoint of each case."""
    folder = tmp_path_factory.mktemp("run")
    for ranks in (1, 2, 4):
        run_ranks(ranks, save_under, cases_of(ranks), folder, group=ranks > 1, timeout=250)
    return folder


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_layout_reads_what_every_layout_wrote(saved: Path, ranks: int):
    cases = cases_of(ranks)
    counts = run_ranks(ranks, load_under, cases, saved, group=ranks > 1, timeout=250)
    assert counts == [sum(reads(case, written) for case in cases for written in CASES)] * ranks
