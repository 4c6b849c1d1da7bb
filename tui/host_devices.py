"""The devices of one host of a run, as its telemetry tells of them."""

from __future__ import annotations

from collections import deque

import msgspec

from engine.contract.events import DevicesFound, Telemetry
from engine.contract.machine import Device, DeviceSample
from tui.series import NAN

HISTORY = 240
"""Samples kept of each device: four minutes at one a second."""
DeviceKey = tuple[str, int]
"""Kind and index: a CPU has an index of its own."""


class HostDevices:
    """Folded from the file of one host; a new attempt at the run tells its devices anew."""

    def __init__(self) -> None:
        self.host: str | None = None
        """None until it was told."""
        self._devices: dict[DeviceKey, Device] = {}
        self._readings: dict[DeviceKey, DeviceSample] = {}
        self.history: dict[DeviceKey, deque[float]] = {}
        """Utilisation of each device, newest last; NaN where unknown."""

    def found(self, event: DevicesFound) -> None:
        self.host = event.host
        self._devices = {(device.kind, device.index): device for device in event.devices}
        self._readings = {key: sample for key, sample in self._readings.items() if key in self._devices}
        self.history = {key: past for key, past in self.history.items() if key in self._devices}

    def sampled(self, event: Telemetry) -> None:
        for sample in event.samples:
            key = (sample.kind, sample.index)
            self._readings[key] = sample
            self.history.setdefault(key, deque(maxlen=HISTORY)).append(
                NAN if sample.utilisation is None else sample.utilisation
            )

    def devices(self, *, live: bool) -> list[Device]:
        """All of them, the CPU last, with their newest readings; without (unknown) once the run has ended."""
        keys = sorted({*self._devices, *self._readings}, key=lambda key: (key[0] == "cpu", key))
        return [self._device(key, live) for key in keys]

    def _device(self, key: DeviceKey, live: bool) -> Device:
        found = self._devices.get(key)
        sample = self._readings.get(key) if live else None
        if found is None:
            found = Device(kind=self._readings[key].kind, index=key[1])
        return msgspec.structs.replace(
            found,
            memory_used_bytes=sample and sample.memory_used_bytes,
            utilisation=sample and sample.utilisation,
            temperature_celsius=sample and sample.temperature_celsius,
            power_watts=sample and sample.power_watts,
            clock_mhz=sample and sample.clock_mhz,
            throttle_reasons=sample and sample.throttle_reasons,
            processes=sample and sample.processes,
            problem=sample.problem if sample else found.problem,
        )
