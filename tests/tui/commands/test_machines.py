"""``devices plan doctor data`` on machines with no, one and eight GPUs, well and broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fake_nvml.fixture import build, environment
from tui.commands.doctor import NVIDIA_DRIVER, all_checks

Command = Callable[..., Any]


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """The folder of the fake NVML library."""
    return build(tmp_path / "nvml")


@pytest.mark.parametrize("gpus", [0, 1, 8])
def test_devices_lists_the_gpus_and_the_processor(command: Command, library: Path, gpus: int) -> None:
    done = command("devices", **environment(library, gpus=gpus))
    assert done.code == 0
    kinds = [line.split()[:2] for line in done.out.splitlines()[1:]]
    assert kinds == [*(["cuda", str(index)] for index in range(gpus)), ["cpu", "0"]]


def test_what_a_gpu_does_not_tell_is_not_a_number(command: Command, library: Path) -> None:
    silent = environment(library, gpus=1, every={"temperature": "!3", "power": "!3", "utilisation": "!3"})
    device = command("devices", "--json", **silent).json["devices"][0]
    assert device["temperature_celsius"] is device["power_watts"] is device["utilisation"] is None
    assert "n/a" in command("devices", **silent).out


def test_a_lost_gpu_is_a_problem_with_a_remedy(command: Command, library: Path) -> None:
    lost = environment(library, gpus=2, gpu1={"state": "!15"})
    done = command("doctor", **lost)
    assert done.code == 1
    line = next(line for line in done.out.splitlines() if line.startswith("PROBLEM  cuda 1"))
    assert "lost" in line
    found = command("doctor", "--json", **lost)
    assert found.code == 1
    assert found.json["healthy"] is False
    assert any(check["remedy"] for check in found.json["checks"] if check["status"] == "problem")


def test_plan_cannot_tell_where_free_memory_is_unknown(command: Command, library: Path) -> None:
    unknown = environment(library, gpus=1, every={"memory_total": "!3"})
    done = command("plan", "quickstart", **unknown)
    assert done.code == 2
    assert "fits    unknown" in done.out
    assert command("plan", "quickstart", "--json", **unknown).json["plans"][0]["fits"] is None


def test_more_gpus_than_there_are(command: Command, library: Path) -> None:
    two = environment(library, gpus=2)
    done = command("plan", "gpt2-124m", "--set", "layout.devices=3", **two)
    assert done.code == 2
    assert "3 devices are asked for, and this machine has 2 cuda devices (use at most 2)" in done.err
    missing = command("plan", "gpt2-124m", "--set", "layout.devices=[0, 5]", **two)
    assert "there is no device 5 among the cuda devices (present: 0, 1)" in missing.err


def test_a_dry_run_names_the_gpus_that_the_workers_see(command: Command, library: Path) -> None:
    four = environment(library, gpus=4)
    done = command("train", "gpt2-124m", "--dry-run", "--json", "--set", "layout.devices=[1, 3]", **four)
    assert done.code == 0, done.err
    assert "--nproc-per-node" in done.json["command"]
    assert done.json["command"][done.json["command"].index("--nproc-per-node") + 1] == "2"
    assert len(done.json["environment"]["CUDA_VISIBLE_DEVICES"].split(",")) == 2


def test_a_driver_that_does_not_answer_is_told(command: Command, library: Path) -> None:
    checks = command("doctor", "--json", **environment(library, init=18)).json["checks"]
    (told,) = [check for check in checks if check["name"] == "nvidia"]
    assert told["message"].startswith("no NVIDIA GPU can be listed: ")
    assert (told["status"] == "warning") == (told["remedy"] is not None) == NVIDIA_DRIVER.exists()
    well = command("doctor", "--json", **environment(library)).json["checks"]
    assert "nvidia" not in {check["name"] for check in well}


def test_a_damaged_shipped_profile_is_not_to_be_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lstm.toml").write_text("[model", encoding="utf-8")
    monkeypatch.setattr("engine.runs.profiles.shipped_folder", lambda: tmp_path)
    (told,) = [check for check in all_checks() if check.name == "profiles"]
    assert told.status == "warning"
    assert told.remedy is not None
    assert "delete" not in told.remedy
    assert str(tmp_path / "lstm.toml") in told.remedy


def test_a_healthy_machine_is_0(command: Command) -> None:
    done = command("doctor")
    assert done.code == 0, done.out
    for name in ("python", "torch", "cpu 0", "home", "disk", "profiles", "detach", "unicode"):
        assert f"  {name} " in done.out
    assert "PROBLEM" not in done.out


def test_no_gpu_where_one_is_asked_for(command: Command, library: Path) -> None:
    done = command("train", "quickstart", "--set", "layout.accelerator=cuda", **environment(library, gpus=0))
    assert done.code == 2
    assert "layout.accelerator: this machine has no usable cuda device" in done.err


def test_preparing_data_prints_its_sizes(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.txt").write_text(f"text number {number}\n" * 40, encoding="utf-8")
    sets = [
        "--set",
        f"data.source={folder}",
        "--set",
        "data.sequence_length=32",
        "--set",
        "data.validation_fraction=0.2",
    ]
    done = command("data", "characters", *sets, "--json")
    assert done.code == 0, done.err
    assert set(done.json) >= {
        "documents", "bytes", "tokens", "vocabulary", "train_tokens", "validation_tokens", "unknown_rate"
    }  # fmt: skip
    assert done.json["documents"] == 40
    assert done.json["tokens"] == done.json["train_tokens"] + done.json["validation_tokens"]
    again = command("data", "characters", *sets)
    assert "documents          40" in again.out
