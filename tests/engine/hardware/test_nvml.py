"""NVIDIA devices, as the fake library of tests/fake_nvml shows them to a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from engine.contract.machine import Device, Machine
from tests.fake_nvml.fixture import build, configure, environment

LOOK = """
import sys
import msgspec
from engine.hardware.detect import detect
sys.stdout.buffer.write(msgspec.json.encode(detect()))
"""
WATCH = """
import sys
import msgspec
from engine.hardware.detect import Sampler
sampler = Sampler()
for line in sys.stdin:
    sys.stdout.buffer.write(msgspec.json.encode(sampler.machine()) + b"\\n")
    sys.stdout.flush()
"""
NOT_SUPPORTED, LOST, RESET, UNKNOWN = "!3", "!15", "!16", "!999"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


def run(script: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **env}, capture_output=True, check=True, timeout=60
    )


def look(env: Mapping[str, str]) -> tuple[Device, ...]:
    """The accelerators; the CPU must be last, and nothing may be printed."""
    done = run(LOOK, env)
    assert done.stderr == b""
    machine = msgspec.json.decode(done.stdout, type=Machine)
    assert machine.devices[-1].kind == "cpu"
    assert all(device.kind == "cuda" for device in machine.devices[:-1])
    return machine.devices[:-1]


@pytest.mark.parametrize("gpus", [0, 1, 8])
def test_devices_are_counted(library: Path, gpus: int) -> None:
    found = look(environment(library, gpus=gpus))
    assert [device.index for device in found] == list(range(gpus))
    assert len({device.uuid for device in found}) == gpus
    assert all(device.problem is None for device in found)


@pytest.mark.parametrize("init", [9, 18, 4, 999])
def test_a_driver_that_does_not_answer_is_no_device(library: Path, init: int) -> None:
    assert look(environment(library, gpus=2, init=init)) == ()


def test_no_library_is_no_device_and_loads_no_pynvml(tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library")
    script = LOOK + "\nassert 'pynvml' not in sys.modules\n"
    machine = msgspec.json.decode(run(script, {"LD_LIBRARY_PATH": str(tmp_path)}).stdout, type=Machine)
    assert [device.kind for device in machine.devices] == ["cpu"]


def test_values_carry_our_units(library: Path) -> None:
    values = {
        "name": "NVIDIA Imaginary 24GB", "utilisation": 87, "temperature": 71, "power": 251500, "power_limit": 350000,
        "clock": 1695, "memory_total": 24 * 2**30, "memory_used": 2**30, "throttle": 0,
    }  # fmt: skip
    (device,) = look(environment(library, gpus=1, gpu0=values))
    assert device.name == "NVIDIA Imaginary 24GB"
    assert device.utilisation == 0.87
    assert (device.temperature_celsius, device.power_watts, device.power_limit_watts) == (71, 251.5, 350)
    assert (device.clock_mhz, device.memory_total_bytes, device.memory_used_bytes) == (1695, 24 * 2**30, 2**30)
    assert device.throttle_reasons == ()
    assert device.processes == ()


@pytest.mark.parametrize("error", [NOT_SUPPORTED, "!4", "!13", UNKNOWN])
def test_what_is_not_supported_is_unknown(library: Path, error: str) -> None:
    fields = (
        "name", "uuid", "memory_total", "utilisation", "temperature", "power", "power_limit", "clock", "throttle",
        "processes", "graphics",
    )  # fmt: skip
    first, second = look(environment(library, gpus=2, gpu0=dict.fromkeys(fields, error)))
    assert first == Device(index=0, kind="cuda")
    assert second.name == "Fake GPU"
    assert second.power_watts == 60


@pytest.mark.parametrize(
    ("broken", "word"),
    [
        ({"state": LOST}, "lost"),
        ({"handle": LOST}, "lost"),
        ({"state": RESET}, "reset"),
        ({"temperature": LOST}, "lost"),
    ],
)
def test_a_broken_device_says_so_and_hides_no_other(library: Path, broken: dict[str, str], word: str) -> None:
    found = look(environment(library, gpus=3, gpu1=broken))
    assert [device.problem is None for device in found] == [True, False, True]
    assert word in str(found[1].problem)
    assert found[1].utilisation is None
    machine = Machine(host="h", devices=found, cpu_cores=1)
    assert [device.index for device in machine.of_kind("cuda")] == [0, 2]


def test_devices_come_and_go_while_watched(library: Path) -> None:
    env = {**os.environ, **environment(library, gpus=2)}
    with subprocess.Popen(
        [sys.executable, "-c", WATCH], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as watcher:
        assert watcher.stdin is not None
        assert watcher.stdout is not None

        def reading() -> tuple[Device, ...]:
            assert watcher.stdin is not None
            assert watcher.stdout is not None
            watcher.stdin.write(b"\n")
            watcher.stdin.flush()
            return msgspec.json.decode(watcher.stdout.readline(), type=Machine).devices[:-1]

        assert [device.problem for device in reading()] == [None, None]
        configure(library, gpus=2, gpu1={"state": LOST}, gpu0={"utilisation": 42})
        first, second = reading()
        assert first.utilisation == 0.42
        assert second.problem is not None
        assert (second.name, second.utilisation) == ("Fake GPU", None)
        configure(library, gpus=2)
        assert [device.problem for device in reading()] == [None, None]


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        (0x0, []),
        (0x1 | 0x2 | 0x100, []),
        (0x4, ["power cap"]),
        (0x8 | 0x40, ["hardware slowdown", "thermal (hardware)"]),
        (0x20 | 0x80, ["thermal (software)", "power brake"]),
    ],
)
def test_throttling_is_told_in_words(library: Path, bits: int, words: list[str]) -> None:
    (device,) = look(environment(library, gpus=1, gpu0={"throttle": bits}))
    assert device.throttle_reasons == tuple(words)


def test_old_drivers_know_throttling_by_its_old_name(library: Path) -> None:
    (device,) = look(environment(library, gpus=1, gpu0={"throttle": "!13", "old_throttle": 4}))
    assert device.throttle_reasons == ("power cap",)


def test_processes_have_names_and_owners(library: Path) -> None:
    gone = 2**22 + 1
    used = {"processes": f"{os.getpid()}:1048576,{gone}:-", "graphics": f"{os.getpid()}:5"}
    (device,) = look(environment(library, gpus=1, gpu0=used))
    assert device.processes is not None
    mine, other = device.processes
    assert (mine.pid, mine.memory_bytes) == (os.getpid(), 1048576)
    assert mine.name
    assert mine.owner
    assert (other.pid, other.name, other.memory_bytes) == (gone, None, None)


def test_the_run_s_own_processes_carry_their_rank(library: Path) -> None:
    script = f"""
import sys
import msgspec
from engine.hardware.detect import Sampler
sampler = Sampler((1,))
sys.stdout.buffer.write(msgspec.json.encode(sampler.sample({{{os.getpid()}: 5}})))
"""
    env = environment(library, gpus=3, every={"processes": f"{os.getpid()}:7,1:8"})
    telemetry = msgspec.json.decode(run(script, env).stdout)
    gpu, cpu = telemetry["samples"]
    assert (gpu["kind"], gpu["index"], cpu["kind"]) == ("cuda", 1, "cpu")
    assert [process.get("rank") for process in gpu["processes"]] == [5, None]
    assert cpu["processes"][0]["rank"] == 5


@pytest.mark.parametrize(
    ("variable", "physical"),
    [("", []), ("2,0", [2, 0]), ("GPU-00000001", [1]), ("GPU-00000002,GPU-00000000", [2, 0]), ("1,9", [1])],
)
def test_hidden_devices_are_not_listed(library: Path, variable: str, physical: list[int]) -> None:
    found = look({**environment(library, gpus=3), "CUDA_VISIBLE_DEVICES": variable})
    assert [device.index for device in found] == list(range(len(physical)))
    assert [device.uuid for device in found] == [f"GPU-{at:08x}-0000-0000-0000-000000000000" for at in physical]


def test_mig_instances_are_devices(library: Path) -> None:
    slices = {"memory_total": 10 * 2**30, "memory_used": 2**20}
    env = environment(library, gpus=2, gpu0={"mig": 2, "utilisation": NOT_SUPPORTED}, gpu0_mig0=slices)
    first, second, third = look(env)
    assert [str(device.uuid)[:4] for device in (first, second, third)] == ["MIG-", "MIG-", "GPU-"]
    assert first.memory_total_bytes == 10 * 2**30
    assert first.utilisation is None
    assert (first.power_watts, first.temperature_celsius) == (None, 40)
    (chosen,) = look({**env, "CUDA_VISIBLE_DEVICES": str(second.uuid)})
    assert (chosen.uuid, chosen.index) == (second.uuid, 0)


def test_workers_see_an_instance_of_a_gpu_that_a_number_names(library: Path) -> None:
    script = """
from engine.hardware.detect import Sampler
from engine.hardware.visible import worker_environment
for index in range(3):
    print(worker_environment(Sampler((index,)).devices(), [index])["CUDA_VISIBLE_DEVICES"])
"""
    env = {**environment(library, gpus=3, gpu0={"mig": 2}), "CUDA_VISIBLE_DEVICES": "0,2"}
    uuids = [device.uuid for device in look(env)]
    assert run(script, env).stdout.decode().split() == uuids
    assert str(uuids[2]).startswith("GPU-00000002")


def test_mig_without_instances_is_no_device_to_train_on(library: Path) -> None:
    (device,) = look(environment(library, gpus=1, gpu0={"mig": 0}))
    assert "MIG" in str(device.problem)
