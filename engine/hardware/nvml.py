"""NVIDIA devices through NVML. The only importer of ``pynvml``, which is loaded when NVML is opened.

No library, no driver or no device is the ordinary case and gives an empty list in silence; :attr:`Nvml.problem`
says why. What NVML does not support on a device is None; a device that fails says so in ``problem`` and hides
no other. Meanings of fields: NVIDIA, *NVML API Reference*.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from engine.contract.machine import Device, Process
from engine.hardware.host import describe
from engine.hardware.visible import parse, select

_THROTTLE_WORDS = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x10: "sync boost",
    0x20: "thermal (software)",
    0x40: "thermal (hardware)",
    0x80: "power brake",
    0x200: "board limit",
    0x400: "reliability",
}
"""Bits of ``nvmlClocksEventReasons``. Idle (1), clocks chosen by a person (2) and the display (0x100) hold no
work back."""

_BROKEN = {
    15: "the GPU is lost: it has fallen off the bus (check power and seating, then restart the machine)",
    16: "the GPU needs a reset",
}
"""NVML errors after which nothing more can be read, in words for a person."""


class _BrokenDeviceError(Exception):
    """The device answers nothing any more; the text says why."""


@dataclass(kw_only=True)
class _Entry:
    """One visible device: its handle, and what never changes about it."""

    handle: Any = None
    physical: int | None = None
    """NVML's number of a whole device, by which a lost one can be asked for again."""
    parent: Any = None
    """Of a MIG instance: the handle of the whole device, which has the temperature and the clocks."""
    problem: str | None = None
    name: str | None = None
    uuid: str | None = None
    memory_total: int | None = None
    power_limit: float | None = None


class Nvml:
    """An open NVML library, or the reason why there is none. Not for use by several threads at once."""

    problem: str | None = None
    """Why no device can be listed, in words; None when the library works (even with 0 devices)."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._library: ModuleType | None = None
        self._entries: list[_Entry] = []
        self._variable = environment.get("CUDA_VISIBLE_DEVICES")
        if not _library_is_there():
            self.problem = "the library libnvidia-ml.so.1 is not there (no NVIDIA driver is installed)"
            return
        try:
            import pynvml  # noqa: PLC0415 - large, and of no use where there is no driver
        except ImportError:
            self.problem = "the Python package nvidia-ml-py is not installed"
            return
        self._errors = (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError)
        try:
            pynvml.nvmlInit()
        except self._errors as error:
            self.problem = _reason(error)
            return
        self._library = pynvml
        try:
            self._entries = self._visible([self._whole(at) for at in range(pynvml.nvmlDeviceGetCount())])
        except self._errors as error:
            self.problem = _reason(error)

    def close(self) -> None:
        """Let go of the library. Closing twice does nothing."""
        if self._library is not None:
            library, self._library = self._library, None
            self._entries = []
            try:
                library.nvmlShutdown()
            except self._errors as error:
                self.problem = _reason(error)

    @property
    def count(self) -> int:
        """How many devices are visible, whether well or not."""
        return len(self._entries)

    def devices(self, only: Collection[int] | None = None) -> tuple[Device, ...]:
        """The visible devices as they are now, or those of them whose index is in ``only``."""
        wanted = [(at, entry) for at, entry in enumerate(self._entries) if only is None or at in only]
        return tuple(self._read(at, entry) for at, entry in wanted)

    def _visible(self, whole: list[_Entry]) -> list[_Entry]:
        wanted = parse(self._variable)
        if wanted and isinstance(wanted[0], str) and wanted[0].startswith("MIG-"):
            every = [instance for entry in whole for instance in self._instances(entry)]
            return [every[at] for at in select([instance.uuid for instance in every], self._variable)]
        chosen = [whole[at] for at in select([entry.uuid for entry in whole], self._variable)]
        return [shown for entry in chosen for shown in (self._instances(entry) or [entry])]

    def _whole(self, physical: int) -> _Entry:
        entry = _Entry(physical=physical)
        self._open(entry)
        return entry

    def _open(self, entry: _Entry) -> None:
        """Take the handle of a whole device and read what never changes; or note what is wrong with it."""
        assert self._library is not None
        try:
            entry.handle = self._library.nvmlDeviceGetHandleByIndex(entry.physical)
            entry.problem = None
            self._read_constants(entry)
        except (*self._errors, _BrokenDeviceError) as error:
            entry.handle = None
            entry.problem = str(error) if isinstance(error, _BrokenDeviceError) else _reason(error)

    def _read_constants(self, entry: _Entry) -> None:
        nvml = self._library
        assert nvml is not None
        entry.name = self._value(nvml.nvmlDeviceGetName, entry.handle)
        entry.uuid = self._value(nvml.nvmlDeviceGetUUID, entry.handle)
        memory = self._value(nvml.nvmlDeviceGetMemoryInfo, entry.handle)
        entry.memory_total = None if memory is None else memory.total
        if entry.parent is None:
            limit = self._value(nvml.nvmlDeviceGetEnforcedPowerLimit, entry.handle)
            entry.power_limit = None if limit is None else limit / 1000

    def _instances(self, entry: _Entry) -> list[_Entry]:
        """The MIG instances of a device in MIG mode, each a device for CUDA; empty when the mode is off."""
        nvml = self._library
        if nvml is None or entry.problem is not None:
            return []
        try:
            mode = self._value(nvml.nvmlDeviceGetMigMode, entry.handle)
            if mode is None or not mode[0]:
                return []
            found = []
            for at in range(self._value(nvml.nvmlDeviceGetMaxMigDeviceCount, entry.handle) or 0):
                handle = self._value(nvml.nvmlDeviceGetMigDeviceHandleByIndex, entry.handle, at)
                if handle is not None:
                    found.append(_Entry(handle=handle, parent=entry.handle))
                    self._read_constants(found[-1])
        except _BrokenDeviceError as error:
            entry.problem = str(error)
            return []
        if not found:
            entry.problem = "MIG mode is on and no instance is made (nvidia-smi mig -cgi ..., or switch the mode off)"
        return found

    def _read(self, index: int, entry: _Entry) -> Device:
        if entry.problem is not None and entry.handle is None and entry.physical is not None:
            self._open(entry)
        device = Device(
            index=index, kind="cuda", name=entry.name, uuid=entry.uuid, memory_total_bytes=entry.memory_total,
            power_limit_watts=entry.power_limit, problem=entry.problem,
        )  # fmt: skip
        if entry.problem is not None:
            return device
        try:
            return self._read_changing(device, entry)
        except _BrokenDeviceError as error:
            # Its handle stays invalid after a reset: the next reading asks for a new one.
            entry.handle = None if entry.physical is not None else entry.handle
            entry.problem = str(error) if entry.physical is not None else None
            return Device(
                index=index, kind="cuda", name=entry.name, uuid=entry.uuid,
                memory_total_bytes=entry.memory_total, problem=str(error),
            )  # fmt: skip

    def _read_changing(self, device: Device, entry: _Entry) -> Device:
        nvml = self._library
        assert nvml is not None
        chip = entry.handle if entry.parent is None else entry.parent
        memory = self._value(nvml.nvmlDeviceGetMemoryInfo, entry.handle)
        rates = self._value(nvml.nvmlDeviceGetUtilizationRates, entry.handle)
        # The power of a whole device says nothing about one of its instances.
        power = self._value(nvml.nvmlDeviceGetPowerUsage, chip) if entry.parent is None else None
        temperature = self._value(nvml.nvmlDeviceGetTemperature, chip, nvml.NVML_TEMPERATURE_GPU)
        clock = self._value(nvml.nvmlDeviceGetClockInfo, chip, nvml.NVML_CLOCK_SM)
        return Device(
            index=device.index, kind="cuda", name=device.name, uuid=device.uuid,
            memory_total_bytes=device.memory_total_bytes if memory is None else memory.total,
            memory_used_bytes=None if memory is None else memory.used,
            utilisation=None if rates is None else min(1.0, rates.gpu / 100),
            temperature_celsius=None if temperature is None else float(temperature),
            power_watts=None if power is None else power / 1000, power_limit_watts=device.power_limit_watts,
            clock_mhz=None if clock is None else float(clock),
            throttle_reasons=self._throttle_reasons(chip), processes=self._processes(entry.handle),
        )  # fmt: skip

    def _throttle_reasons(self, handle: Any) -> tuple[str, ...] | None:
        nvml = self._library
        assert nvml is not None
        # The call was renamed in driver 535; older libraries know only the second name.
        bits = self._value(nvml.nvmlDeviceGetCurrentClocksEventReasons, handle)
        if bits is None:
            bits = self._value(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
        return None if bits is None else tuple(word for bit, word in _THROTTLE_WORDS.items() if bits & bit)

    def _processes(self, handle: Any) -> tuple[Process, ...] | None:
        nvml = self._library
        assert nvml is not None
        used: dict[int, int | None] = {}
        known = False
        for names in (
            ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2"),
            ("nvmlDeviceGetGraphicsRunningProcesses_v3", "nvmlDeviceGetGraphicsRunningProcesses_v2"),
        ):
            answers = (self._value(getattr(nvml, name), handle) for name in names if hasattr(nvml, name))
            found = next((answer for answer in answers if answer is not None), None)
            known |= found is not None
            for process in found or ():
                used.setdefault(int(process.pid), process.usedGpuMemory)
        if not known:
            return None
        people = describe(used)
        return tuple(
            Process(pid=pid, name=people[pid][0], owner=people[pid][1], memory_bytes=memory)
            for pid, memory in used.items()
        )

    def _value(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """What the call answers; None if NVML has no answer for this device or this user.

        Raises :class:`_BrokenDeviceError` if the device cannot answer anything any more.
        """
        try:
            return call(*arguments)
        except self._errors as error:
            if getattr(error, "value", None) in _BROKEN:
                raise _BrokenDeviceError(_reason(error)) from error
            return None
        except UnicodeDecodeError:
            # A name that is no text (seen with damaged information ROMs).
            return None


def _library_is_there() -> bool:
    """Whether the library can be loaded. Asking costs a tenth of importing pynvml, in vain on most machines."""
    if sys.platform == "win32":
        return True
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


def _reason(error: BaseException) -> str:
    return _BROKEN.get(getattr(error, "value", 0), f"NVML: {error}")
