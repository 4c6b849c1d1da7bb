"""AMD devices (torch's ROCm builds call them ``cuda``) through ``amdsmi`` if it is installed, else through sysfs.

Files of the amdgpu driver: kernel documentation, *GPU amdgpu/driver-misc* and *thermal*; power in microwatts,
temperatures in thousandths of a degree, clocks in hertz.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from engine.contract.machine import Device
from engine.hardware.visible import parse

_VENDOR = "0x1002"
_CARD = re.compile(r"card(\d+)")


def devices(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> tuple[Device, ...]:
    """The AMD devices that a ROCm build of torch would see, numbered as it would number them.

    ``root`` stands for ``/`` (a test puts a folder there).
    """
    cards = _cards(root)
    if not cards:
        return ()
    variable = environment.get("HIP_VISIBLE_DEVICES", environment.get("CUDA_VISIBLE_DEVICES"))
    wanted = parse(variable)
    if wanted is not None:
        cards = [cards[at] for at in wanted if isinstance(at, int) and at < len(cards)]
    smi = _AmdSmi.open() if root == Path("/") else None
    found = []
    for index, card in enumerate(cards):
        device = _read_sysfs(index, card)
        found.append(device if smi is None else smi.complete(device, card.resolve().name))
    return tuple(found)


def _cards(root: Path) -> list[Path]:
    """Device folders of the cards that the amdgpu driver runs, in the order of their bus addresses, as in ROCm."""
    folder = root / "sys/class/drm"
    if not folder.is_dir():
        return []
    found = [card / "device" for card in folder.iterdir() if _CARD.fullmatch(card.name)]
    # Without the size of its memory a card is run by a driver that computes nothing (radeon, simpledrm).
    known = [path for path in found if _text(path / "vendor") == _VENDOR and (path / "mem_info_vram_total").exists()]
    return sorted(known, key=lambda path: (path.resolve().name if path.is_symlink() else "", _card_number(path)))


def _card_number(device: Path) -> int:
    match = _CARD.fullmatch(device.parent.name)
    return int(match[1]) if match else 0


def _read_sysfs(index: int, card: Path) -> Device:
    sensors = next(iter(sorted((card / "hwmon").glob("hwmon*"))), card / "hwmon/none")
    power = _number(sensors / "power1_average")
    power = _number(sensors / "power1_input") if power is None else power
    busy = _number(card / "gpu_busy_percent")
    unique = _text(card / "unique_id")
    return Device(
        index=index,
        kind="rocm",
        name=_text(card / "product_name") or None,
        uuid=f"GPU-{unique.removeprefix('0x')}" if unique else None,
        memory_total_bytes=_number(card / "mem_info_vram_total"),
        memory_used_bytes=_number(card / "mem_info_vram_used"),
        utilisation=None if busy is None else min(1.0, busy / 100),
        temperature_celsius=_scaled(_number(sensors / "temp1_input"), 1e3),
        power_watts=_scaled(power, 1e6),
        power_limit_watts=_scaled(_number(sensors / "power1_cap"), 1e6),
        clock_mhz=_scaled(_number(sensors / "freq1_input"), 1e6),
    )


def _scaled(value: int | None, divisor: float) -> float | None:
    return None if value is None else value / divisor


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    """The content of a small kernel file; empty where the driver has none or refuses (card asleep or gone)."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


class _AmdSmi:
    """What the ``amdsmi`` package adds to sysfs: the name on the market and who is throttling."""

    _opened: _AmdSmi | None = None
    _tried = False

    def __init__(self, library: ModuleType) -> None:
        self._library = library
        self._handles: dict[str, Any] = {}
        for handle in library.amdsmi_get_processor_handles():
            self._handles[str(library.amdsmi_get_gpu_device_bdf(handle)).lower()] = handle

    @classmethod
    def open(cls) -> _AmdSmi | None:
        """The library, opened once in a process; None where it is not installed or does not answer."""
        if not cls._tried:
            cls._tried = True
            if importlib.util.find_spec("amdsmi") is not None:
                try:
                    library = importlib.import_module("amdsmi")
                    library.amdsmi_init()
                    cls._opened = cls(library)
                except (ImportError, OSError, AttributeError, KeyError):
                    # The package wraps a C library that need not be there; sysfs alone has to do.
                    return None
                except Exception as error:
                    # AmdSmiException is known only after the import: anything else is a defect and passes on.
                    if not type(error).__module__.startswith("amdsmi"):
                        raise
                    return None
        return cls._opened

    def complete(self, device: Device, bus_address: str) -> Device:
        """``device`` with its name filled in, if the library knows the card."""
        handle = self._handles.get(bus_address.lower())
        if handle is None or device.name is not None:
            return device
        try:
            name = self._library.amdsmi_get_gpu_asic_info(handle).get("market_name")
        except self._library.AmdSmiException:
            return device
        return msgspec.structs.replace(device, name=str(name)) if name else device
