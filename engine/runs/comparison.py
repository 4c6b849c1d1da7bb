"""What of a host stands in the way of training together with this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.contract.errors import Problem
from engine.contract.layout import Layout
from engine.contract.machine import Device, Machine
from engine.runs.ssh import host_problem

SKEW_SECONDS = 2.0
"""From here on the times in logs and curves of two hosts do not fit together."""
LARGEST_SKEW_SECONDS = 60.0
"""From here on a run on a shared disk is taken for lost, and files for newer than they are."""
LOW_DISK_BYTES = 1 << 30

Findings = tuple[list[Problem], list[Problem]]
"""Problems and warnings."""


def version_findings(host: str, theirs: Mapping[str, str | None], ours: Mapping[str, str | None]) -> Findings:
    """Releases must be equal; of Python, which is no part of what the hosts say to each other, only the minor one."""
    problems, warnings = [], []
    for package, mine in ours.items():
        other = theirs.get(package)
        if other == mine:
            continue
        if other is None:
            problems.append(host_problem(host, f"{package} is not installed there", f"install {package} {mine}"))
        elif _decisive(package, other) != _decisive(package, mine or ""):
            message = f"{package} {other} there, and {mine or 'none'} here"
            hint = f"install {package} {mine} there" if mine else f"install {package} {other} here"
            problems.append(host_problem(host, message, hint))
        else:
            warnings.append(host_problem(host, f"{package} {other} there, and {mine} here"))
    return problems, warnings


def _decisive(package: str, version: str) -> str:
    """The part of a version that has to agree: ``2.9.0`` of ``2.9.0+cu126``, ``3.11`` of Python's ``3.11.4``."""
    release = version.partition("+")[0]
    return ".".join(release.split(".")[:2]) if package == "python" else release


def clock_findings(host: str, skew: float | None) -> Findings:
    """A clock that is off by a little is told, by much refused."""
    if skew is None or abs(skew) <= SKEW_SECONDS:
        return [], []
    message = f"its clock is {abs(skew):,.1f} seconds {'ahead of' if skew > 0 else 'behind'} the one of this machine"
    found = [host_problem(host, message, "let both keep time by the network: sudo timedatectl set-ntp true")]
    return (found, []) if abs(skew) > LARGEST_SKEW_SECONDS else ([], found)


def disk_warnings(host: str, free_bytes: int | None) -> list[Problem]:
    """Each host keeps the prepared data."""
    if free_bytes is None or free_bytes >= LOW_DISK_BYTES:
        return []
    return [host_problem(host, f"only {free_bytes >> 20} MiB are free on the disk of its Traindeck home")]


def device_findings(host: str, devices: Sequence[Device], layout: Layout | None) -> Findings:
    """Whether a host has the devices that the layout gives ranks to. Cores may be shared, accelerators may not."""
    if layout is None:
        return [], []
    machine = Machine(host=host, devices=tuple(devices), cpu_cores=0)
    wanted, kind = layout.device_indices, layout.accelerator
    if kind == "cpu":
        slots = machine.slots("cpu")
        crowded = [host_problem(host, f"{len(wanted)} workers share {slots} cores")] if len(wanted) > slots else []
        return [], crowded
    present = [device.index for device in machine.of_kind(kind)]
    missing = [index for index in wanted if index not in present]
    if not missing:
        return [], []
    broken = [f"{device.kind} {device.index}: {device.problem}" for device in devices if device.problem]
    message = f"{kind} device {', '.join(map(str, missing))} is wanted, and it has "
    message += ("devices " + ", ".join(map(str, present))) if present else f"no usable {kind} device"
    message += f" ({'; '.join(broken)})" if broken else ""
    return [host_problem(host, message, "set layout.devices to what all hosts have, or leave the host out")], []
