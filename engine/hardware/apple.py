"""The GPU of an Apple chip (torch's ``mps``), as far as the system tells without special rights."""

from __future__ import annotations

import platform
from collections.abc import Callable

from engine.contract.machine import Device
from engine.hardware.host import sysctl


def devices(
    system: Callable[[], str] = platform.system,
    machine: Callable[[], str] = platform.machine,
    ask: Callable[[str], str | None] = sysctl,
) -> tuple[Device, ...]:
    """One device on an Apple chip, else none. Its memory is the memory of the host; its load is not told."""
    if system() != "Darwin" or machine() != "arm64":
        return ()
    size = ask("hw.memsize") or ""
    return (
        Device(
            index=0,
            kind="mps",
            name=ask("machdep.cpu.brand_string"),
            memory_total_bytes=int(size) if size.isdigit() else None,
        ),
    )
