"""Machines for screens under test: what is really here never shows in a picture."""

from __future__ import annotations

from engine.contract.machine import Device, Machine

GIB = 1 << 30
CPU = Device(index=0, kind="cpu", name="AMD EPYC 7R13", memory_total_bytes=16 * GIB, slots=2)
LAPTOP = Machine(
    host="atelier", devices=(CPU,), cpu_cores=2, memory_total_bytes=16 * GIB, memory_available_bytes=12 * GIB
)
"""Two cores and no GPU."""


def workstation(gpus: int = 2, *, used_bytes: int = GIB) -> Machine:
    """A host with ``gpus`` GPUs of 24 GiB."""
    devices = tuple(
        Device(
            index=index, kind="cuda", name="NVIDIA GeForce RTX 4090", memory_total_bytes=24 * GIB,
            memory_used_bytes=used_bytes,
        )
        for index in range(gpus)
    )  # fmt: skip
    return Machine(
        host="atelier", devices=(*devices, CPU), cpu_cores=16, memory_total_bytes=64 * GIB,
        memory_available_bytes=48 * GIB,
    )  # fmt: skip
