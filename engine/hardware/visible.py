"""``CUDA_VISIBLE_DEVICES``: which accelerators a worker sees, and under which numbers.

The reading of the variable follows ``torch.cuda._parse_visible_devices``: numbers, ``GPU-`` or ``MIG-``
identifiers (any unambiguous beginning of one will do); the list ends at the first entry that is neither, and
one named twice makes it empty.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from engine.contract.machine import Device

_NUMBER = re.compile(r"[+-]?\d+")


def parse(variable: str | None) -> tuple[int, ...] | tuple[str, ...] | None:
    """Numbers or identifiers in the order of ``variable``; None when it is not set and hides nothing."""
    if variable is None:
        return None
    for prefix in ("GPU-", "MIG-"):
        if variable.strip().startswith(prefix):
            return _identifiers(variable, prefix)
    numbers: list[int] = []
    for entry in variable.split(","):
        match = _NUMBER.match(entry.strip())
        number = int(match[0]) if match else -1
        if number in numbers:
            return ()
        if number < 0:
            break
        numbers.append(number)
    return tuple(numbers)


def _identifiers(variable: str, prefix: str) -> tuple[str, ...]:
    found: list[str] = []
    for entry in variable.split(","):
        name = entry.strip()
        if name in found:
            return ()
        if not name.startswith(prefix):
            break
        found.append(name)
    return tuple(found)


def select(uuids: Sequence[str | None], variable: str | None) -> list[int]:
    """Positions of the whole devices that ``variable`` leaves visible, in its order.

    ``uuids`` are those of all devices of the machine, by physical index.
    """
    wanted = parse(variable)
    if wanted is None:
        return list(range(len(uuids)))
    chosen: list[int] = []
    for entry in wanted:
        if isinstance(entry, int):
            matching = [entry] if entry < len(uuids) else []
        else:
            matching = [at for at, uuid in enumerate(uuids) if uuid is not None and uuid.startswith(entry)]
        if len(matching) != 1 or matching[0] in chosen:
            break
        chosen += matching
    return chosen


def worker_environment(
    devices: Sequence[Device], indices: Sequence[int], environment: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """What to set for workers that shall see the accelerators ``indices`` of ``devices``, in that order.

    Where the variable is set already, they are named by their identifiers: a number in it may stand for several
    devices (the instances of a GPU in MIG mode), so that an index is no place in it. NVML counts by place on the bus,
    CUDA by speed unless told otherwise: the second variable makes them agree.
    """
    entries = parse(environment.get("CUDA_VISIBLE_DEVICES"))
    uuids = {device.index: device.uuid for device in devices if device.kind == "cuda"}
    if entries is not None:
        names = [uuids.get(index) or str(entries[index] if index < len(entries) else index) for index in indices]
    elif any((uuid or "").startswith("MIG-") for uuid in uuids.values()):
        names = [uuids.get(index) or str(index) for index in indices]
    else:
        names = [str(index) for index in indices]
    return {"CUDA_VISIBLE_DEVICES": ",".join(names), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
