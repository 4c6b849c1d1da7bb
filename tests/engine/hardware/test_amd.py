from __future__ import annotations

from pathlib import Path

import pytest

from engine.hardware import amd, sampler
from engine.hardware.torchbuild import build_of


def card(root: Path, number: int, address: str, **files: object) -> None:
    """A card as sysfs shows it: ``cardN/device`` is a link to the folder of its bus address."""
    device = root / "sys/devices/pci" / address
    folder = root / f"sys/class/drm/card{number}"
    folder.mkdir(parents=True)
    known: dict[str, object] = {"vendor": "0x1002", "mem_info_vram_total": 16 * 2**30, "mem_info_vram_used": 2**30}
    for name, value in {**known, **files}.items():
        if value is not None:
            path = device / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{value}\n")
    (folder / "device").symlink_to(device)


def test_no_card_no_device(tmp_path: Path) -> None:
    assert amd.devices(tmp_path, {}) == ()


def test_a_card_is_read(tmp_path: Path) -> None:
    card(
        tmp_path, 1, "0000:03:00.0", gpu_busy_percent=37, unique_id="0x5a1b", product_name="Radeon Imaginary",
        hwmon__hwmon3__temp1_input=61000, hwmon__hwmon3__power1_average=181000000,
        hwmon__hwmon3__power1_cap=300000000, hwmon__hwmon3__freq1_input=2105000000,
    )  # fmt: skip
    (device,) = amd.devices(tmp_path, {})
    assert (device.kind, device.index, device.name, device.uuid) == ("rocm", 0, "Radeon Imaginary", "GPU-5a1b")
    assert (device.memory_total_bytes, device.memory_used_bytes) == (16 * 2**30, 2**30)
    assert (device.utilisation, device.temperature_celsius) == (0.37, 61)
    assert (device.power_watts, device.power_limit_watts, device.clock_mhz) == (181, 300, 2105)


def test_what_the_driver_does_not_tell_is_unknown(tmp_path: Path) -> None:
    card(tmp_path, 0, "0000:03:00.0")
    (device,) = amd.devices(tmp_path, {})
    assert device.memory_total_bytes == 16 * 2**30
    assert (device.name, device.utilisation, device.temperature_celsius, device.power_watts) == (None,) * 4


def test_other_makers_and_other_drivers_are_left_out(tmp_path: Path) -> None:
    card(tmp_path, 0, "0000:01:00.0", vendor="0x10de")
    card(tmp_path, 1, "0000:02:00.0", mem_info_vram_total=None)
    assert amd.devices(tmp_path, {}) == ()


@pytest.mark.parametrize(
    ("environment", "addresses"),
    [
        ({}, ["03", "13", "23"]),
        ({"HIP_VISIBLE_DEVICES": "2,0"}, ["23", "03"]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, ["13"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, []),
        ({"HIP_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": "1"}, ["03"]),
    ],
)
def test_cards_are_numbered_by_bus_address_and_may_be_hidden(
    tmp_path: Path, environment: dict[str, str], addresses: list[str]
) -> None:
    for number, address in ((0, "23"), (1, "03"), (2, "13")):
        card(tmp_path, number, f"0000:{address}:00.0", unique_id=f"0x{address}")
    found = amd.devices(tmp_path, environment)
    assert [device.index for device in found] == list(range(len(addresses)))
    assert [device.uuid for device in found] == [f"GPU-{address}" for address in addresses]


@pytest.mark.parametrize(
    ("lines", "build"),
    [
        ("cuda: Optional[str] = '12.6'\nhip: Optional[str] = None\n", "cuda"),
        ("cuda: Optional[str] = None\nhip: Optional[str] = '6.4.1'\n", "rocm"),
        ("cuda = None\nhip = None\n", "cpu"),
        ("nothing\n", None),
    ],
)
def test_the_build_of_torch_is_told_without_importing_it(tmp_path: Path, lines: str, build: str | None) -> None:
    (tmp_path / "version.py").write_text("__version__ = '2.13.0'\n" + lines)
    assert build_of(tmp_path / "version.py") == build
    assert build_of(tmp_path / "missing.py") is None


def test_a_card_that_the_installed_torch_cannot_use_says_so(tmp_path: Path) -> None:
    card(tmp_path, 0, "0000:03:00.0")
    (device,) = amd.devices(tmp_path, {})
    assert "ROCm" in str(sampler._usable(device, "cuda").problem)
    assert sampler._usable(device, "rocm").problem is None
    assert sampler._usable(device, None).problem is None
