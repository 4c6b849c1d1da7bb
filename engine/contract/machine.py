"""What a machine has, and how busy it is: the words of ``traindeck devices`` and of the telemetry files."""

from __future__ import annotations

from typing import Literal

import msgspec

DeviceKind = Literal["cuda", "rocm", "mps", "cpu"]


class Process(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A process that uses a device."""

    pid: int
    name: str | None = None
    owner: str | None = None
    memory_bytes: int | None = None
    rank: int | None = None
    """Rank in the run whose telemetry this is; None for processes of others."""
    cpu_fraction: float | None = None
    """Processor use in cores: 1.5 is one and a half cores busy."""


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One accelerator, or the processors of the host as one device, at one moment. Unknown is None."""

    index: int
    kind: DeviceKind
    name: str | None = None
    uuid: str | None = None
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    utilisation: float | None = None
    """Busy share of the last sample interval, 0 to 1."""
    temperature_celsius: float | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    clock_mhz: float | None = None
    throttle_reasons: tuple[str, ...] | None = None
    """Why the clock is held down; empty when it is not, None when unknown."""
    processes: tuple[Process, ...] | None = None
    slots: int = 1
    """Workers that may share this device: 1 for an accelerator, the usable cores for the CPU."""
    problem: str | None = None
    """Why the device cannot be used or read (lost from the bus, driver error); None when it is well."""


class DeviceSample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What changes of a device from second to second; fields as in :class:`Device`, unknown left out."""

    index: int
    kind: DeviceKind
    memory_used_bytes: int | None = None
    utilisation: float | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None
    clock_mhz: float | None = None
    throttle_reasons: tuple[str, ...] | None = None
    processes: tuple[Process, ...] | None = None
    problem: str | None = None


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """A host and its devices at one moment."""

    host: str
    devices: tuple[Device, ...]
    """Accelerators first, the CPU last."""
    cpu_cores: int
    """Cores that this process may use."""
    memory_total_bytes: int | None = None
    memory_available_bytes: int | None = None

    def accelerator(self) -> DeviceKind:
        """The kind that ``layout.accelerator = "auto"`` means here."""
        usable = [device.kind for device in self.devices if device.problem is None]
        return usable[0] if usable else "cpu"

    def of_kind(self, kind: str) -> tuple[Device, ...]:
        """The usable devices of a kind. ROCm devices answer to ``cuda``, as they do in torch."""
        kinds = {"cuda", "rocm"} if kind == "cuda" else {kind}
        return tuple(device for device in self.devices if device.kind in kinds and device.problem is None)

    def slots(self, kind: str) -> int:
        """How many workers the devices of a kind can take."""
        return sum(device.slots for device in self.of_kind(kind))
