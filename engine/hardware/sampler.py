"""Readings of the same devices again and again: the telemetry of a run, and the live screens."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

import msgspec

from engine.contract.events import Telemetry
from engine.contract.machine import Device, DeviceSample, Machine, Process
from engine.hardware import amd, apple, host
from engine.hardware.nvml import Nvml
from engine.hardware.torchbuild import torch_build


class Sampler:
    """Reads the accelerators and the CPU, cheaply. Not for use by several threads at once.

    ``device_indices`` names the accelerators to read, by their index in :func:`engine.hardware.detect.detect`;
    None reads all of them, ``()`` none, as for a training on the CPU. The CPU is always read.
    """

    def __init__(
        self, device_indices: Collection[int] | None = None, environment: Mapping[str, str] = os.environ
    ) -> None:
        self._only = None if device_indices is None else frozenset(device_indices)
        self._environment = environment
        self._host = host.HostReader()
        self._nvml = Nvml(environment) if self._only is None or self._only else None
        # Asked once: whether there is an AMD or Apple device does not change while the program runs.
        looks = self._nvml is not None
        self._amd = looks and bool(amd.devices(environment=environment))
        self._apple = apple.devices() if looks else ()

    def close(self) -> None:
        """Let go of the drivers' libraries. Closing twice does nothing."""
        if self._nvml is not None:
            self._nvml.close()

    @property
    def nvml_problem(self) -> str | None:
        """Why no NVIDIA device can be listed; None where NVML works or was not asked."""
        return None if self._nvml is None else self._nvml.problem

    def devices(self) -> tuple[Device, ...]:
        """The devices as they are now; the CPU's utilisation is that since the last reading, None in the first."""
        found: list[Device] = []
        first = 0
        if self._nvml is not None:
            found += self._nvml.devices(self._only)
            first = self._nvml.count
        if self._amd:
            others = amd.devices(environment=self._environment)
            found += [msgspec.structs.replace(device, index=first + device.index) for device in others]
        if self._apple:
            found += self._apple
        build = torch_build() if self._amd else None
        chosen = [_usable(device, build) for device in found if self._only is None or device.index in self._only]
        return (*chosen, self._host.device())

    def machine(self) -> Machine:
        """The host and its devices as they are now."""
        devices = self.devices()
        total, used = devices[-1].memory_total_bytes, devices[-1].memory_used_bytes
        return Machine(
            host=host.host_name(),
            devices=devices,
            cpu_cores=self._host.cores,
            memory_total_bytes=total,
            memory_available_bytes=None if total is None or used is None else total - used,
        )

    def sample(self, pids: Mapping[int, int] | None = None) -> Telemetry:
        """One line of telemetry. ``pids`` are the run's own processes: pid -> rank.

        They are listed with the CPU, with their memory and processor use, and marked where a GPU lists them.
        Does not wait: what is measured over time is measured since the last call.
        """
        ranks = dict(pids or {})
        devices = self.devices()
        cpu = devices[-1]
        samples = [_sample(device, _with_ranks(device.processes, ranks)) for device in devices[:-1]]
        samples.append(_sample(cpu, self._host.processes(ranks) if ranks else None))
        return Telemetry(
            samples=tuple(samples),
            cpu_fraction=cpu.utilisation,
            memory_used_bytes=cpu.memory_used_bytes,
            memory_total_bytes=cpu.memory_total_bytes,
        )


def _usable(device: Device, build: str | None) -> Device:
    """``device``, with a problem noted if the installed torch is built for another maker's devices."""
    other = {"rocm": {"cuda", "cpu"}, "cuda": {"rocm"}}.get(device.kind, set())
    if build not in other or device.problem is not None:
        return device
    needed = "ROCm" if device.kind == "rocm" else "CUDA"
    return msgspec.structs.replace(device, problem=f"the installed torch is not a {needed} build (it is for {build})")


def _with_ranks(processes: tuple[Process, ...] | None, ranks: dict[int, int]) -> tuple[Process, ...] | None:
    if processes is None or not ranks:
        return processes
    return tuple(msgspec.structs.replace(process, rank=ranks.get(process.pid)) for process in processes)


def _sample(device: Device, processes: tuple[Process, ...] | None) -> DeviceSample:
    return DeviceSample(
        index=device.index,
        kind=device.kind,
        memory_used_bytes=device.memory_used_bytes,
        utilisation=device.utilisation,
        temperature_celsius=device.temperature_celsius,
        power_watts=device.power_watts,
        clock_mhz=device.clock_mhz,
        throttle_reasons=device.throttle_reasons,
        processes=processes,
        problem=device.problem,
    )
