"""Every shipped profile: it loads, has no problems, can be estimated; the small ones train for some steps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from engine.contract.check import check
from engine.contract.machine import Device, Machine
from engine.contract.spec import RunSpec
from engine.contract.specfile import dump_spec, parse_spec, read_spec
from engine.planner.estimate import Estimate, estimate

FOLDER = Path(__file__).parent.parent / "profiles"
NAMES = sorted(path.stem for path in FOLDER.glob("*.toml"))
SMALL = ("quickstart", "characters", "lstm", "sharded")
GIB = 2**30
LAPTOP = Machine(
    host="laptop", devices=(Device(index=0, kind="cpu", slots=2, memory_total_bytes=8 * GIB),), cpu_cores=2,
    memory_total_bytes=8 * GIB, memory_available_bytes=4 * GIB,
)  # fmt: skip


def station(gpus: int, memory_gib: int) -> Machine:
    """A machine with GPUs that nobody uses."""
    devices = [
        Device(index=index, kind="cuda", memory_total_bytes=memory_gib * GIB, memory_used_bytes=GIB // 2)
        for index in range(gpus)
    ]
    return Machine(host="station", devices=(*devices, *LAPTOP.devices), cpu_cores=16)


def estimated(name: str, machine: Machine) -> Estimate:
    spec = read_spec(FOLDER / f"{name}.toml")
    assert check(spec, machine) == []
    return estimate(spec, machine)


def test_the_profiles_are_these() -> None:
    assert NAMES == ["characters", "gpt2-124m", "llama-1b", "lstm", "quickstart", "sharded"]


@pytest.mark.parametrize("name", NAMES)
def test_loads_without_problems_under_its_own_name(name: str) -> None:
    spec = read_spec(FOLDER / f"{name}.toml")
    assert spec.name == name
    assert spec.description
    assert check(spec) == []
    assert parse_spec(dump_spec(spec)) == spec
    assert "#" in (FOLDER / f"{name}.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SMALL)
def test_small_ones_fit_a_laptop(name: str) -> None:
    found = estimated(name, LAPTOP)
    assert found.fits
    assert 0.5e6 < found.parameters < 4e6


@pytest.mark.parametrize(
    ("name", "parameters", "memory_gib"), [("gpt2-124m", 124_475_904, 8), ("llama-1b", 1_040_254_976, 32)]
)
@pytest.mark.parametrize("gpus", [1, 2, 4, 8])
def test_large_ones_fit_the_gpus_they_are_made_for(name: str, parameters: int, memory_gib: int, gpus: int) -> None:
    found = estimated(name, station(gpus, memory_gib))
    assert found.parameters == parameters
    assert found.fits, found.needed_bytes / GIB
    assert found.layout.dp_replicate == gpus


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_small_ones_train(name: str, tmp_path: Path) -> None:
    """Three steps of the profile as it is, on the first documents of its data."""
    overrides = (
        "budget.max_steps=3", "budget.max_seconds=none", "data.max_documents=40", "data.validation_fraction=0.2",
        "tokenizer.vocabulary=512", "optim.batch_size=4", "layout.micro_batch=2", "evaluation.max_batches=1",
        "evaluation.sample_tokens=8",
    )  # fmt: skip
    arguments = [word for override in overrides for word in ("--set", override)]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tui.cli", "train", name, "--json", *arguments],
        capture_output=True, text=True, timeout=240, check=False, env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    status = msgspec.json.decode(done.stdout)
    assert (status["state"], status["step"]) == ("finished", 3)
    assert status["validation_perplexity"] > 1
    kept = read_spec(Path(status["directory"], "spec.toml"))
    assert isinstance(kept, RunSpec)
    assert kept.budget.max_steps == 3
