"""``doctor``: what of this machine, installation and terminal stands in the way, and what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec
import typer

from engine.contract.errors import TraindeckError
from engine.contract.machine import Machine
from engine.hardware.detect import Sampler
from engine.runs import detach
from engine.runs.home import home
from engine.runs.profiles import list_profiles, registry_warnings
from tui.commands.opening import installed_version
from tui.commands.output import FAILED, emit, say
from tui.text import human_bytes, printable, shows_unicode

Verdict = Literal["ok", "warning", "problem"]
SIGNS: dict[Verdict, str] = {"ok": "ok     ", "warning": "warning", "problem": "PROBLEM"}
LOW_DISK_BYTES = 10 << 30
NO_DISK_BYTES = 1 << 30
MALICIOUS_LIGHTNING = {"2.6.2", "2.6.3"}
SMALLEST_TERMINAL = (80, 24)
NVIDIA_DRIVER = Path("/proc/driver/nvidia")
"""There while the driver is loaded."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at."""

    name: str
    status: Verdict
    message: str
    remedy: str | None = None


def doctor(*, as_json: bool) -> None:
    """Print all checks. Exits with 1 if there is a problem; warnings are none."""
    checks = list(all_checks())
    healthy = all(check.status != "problem" for check in checks)
    if as_json:
        emit({"healthy": healthy, "checks": checks})
    else:
        for check in checks:
            say(f"{SIGNS[check.status]}  {check.name:<12}  {printable(check.message, newlines=False)}")
            if check.remedy:
                say(f"{'':<23}{printable(check.remedy, newlines=False)}")
    if not healthy:
        raise typer.Exit(FAILED)


def all_checks() -> Iterator[Check]:
    """Every check, in the order in which a person would mend things."""
    sampler = Sampler()
    machine, unlisted = sampler.machine(), sampler.nvml_problem
    sampler.close()
    yield _python()
    yield from _packages()
    if unlisted is not None:
        yield _nvidia(unlisted)
    yield from _devices(machine)
    yield from _torch_build(machine)
    yield _memory(machine)
    yield from _home()
    yield from _profiles()
    yield _detach()
    yield from _terminal()


def _python() -> Check:
    found = f"{platform.python_version()} at {sys.executable}"
    return Check(name="python", status="ok", message=found)


def _packages() -> Iterator[Check]:
    """Versions are read from the metadata: importing torch takes seconds."""
    for package in ("torch", "lightning", "tokenizers", "textual"):
        version = installed_version(package)
        if version is None:
            remedy = f"install it: python -m pip install {package}"
            yield Check(name=package, status="problem", message="not installed", remedy=remedy)
        elif package == "lightning" and version in MALICIOUS_LIGHTNING:
            yield Check(
                name=package, status="problem", message=f"{version} was a malicious upload",
                remedy="remove it, change every password and token that this machine knows, and install 2.6.4 or newer",
            )  # fmt: skip
        else:
            yield Check(name=package, status="ok", message=version)


def _nvidia(unlisted: str) -> Check:
    """Without a driver there is nothing to mend; with one, its GPUs should be seen."""
    message = f"no NVIDIA GPU can be listed: {unlisted}"
    if NVIDIA_DRIVER.exists():
        remedy = "see whether nvidia-smi works; after an update of the driver this machine must be restarted"
        return Check(name="nvidia", status="warning", message=message, remedy=remedy)
    return Check(name="nvidia", status="ok", message=message)


def _devices(machine: Machine) -> Iterator[Check]:
    for device in machine.devices:
        name = f"{device.kind} {device.index}"
        if device.problem:
            remedy = "see the driver's log (dmesg, nvidia-smi); other devices can be used meanwhile"
            yield Check(name=name, status="problem", message=f"{device.name}: {device.problem}", remedy=remedy)
        else:
            slots = f", {device.slots} cores" if device.kind == "cpu" else ""
            size = human_bytes(device.memory_total_bytes)
            yield Check(name=name, status="ok", message=f"{device.name or 'n/a'}, {size}{slots}")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        message = f"CUDA_VISIBLE_DEVICES={visible} hides other GPUs"
        yield Check(name="visible", status="ok" if machine.slots("cuda") else "warning", message=message)


def _torch_build(machine: Machine) -> Iterator[Check]:
    version = installed_version("torch") or ""
    if "+cpu" in version and machine.slots("cuda"):
        yield Check(
            name="torch", status="problem", message=f"{version} is built without GPU support, and there is a GPU",
            remedy="install a build for your driver: https://pytorch.org/get-started/locally",
        )  # fmt: skip


def _memory(machine: Machine) -> Check:
    available, total = machine.memory_available_bytes, machine.memory_total_bytes
    message = f"{human_bytes(available)} of {human_bytes(total)} free"
    if available is not None and available < 2 << 30:
        return Check(name="memory", status="warning", message=message, remedy="even small trainings take about 2 GiB")
    return Check(name="memory", status="ok", message=message)


def _home() -> Iterator[Check]:
    try:
        folder = home()
    except TraindeckError as error:
        yield Check(name="home", status="problem", message=error.message, remedy=error.hint)
        return
    open_to_others = folder.stat().st_mode & 0o077
    yield Check(
        name="home",
        status="warning" if open_to_others else "ok",
        message=f"{folder}" + (" can be read by others" if open_to_others else ""),
        remedy=f"chmod 700 {folder}" if open_to_others else None,
    )
    free = shutil.disk_usage(folder).free
    status: Verdict = "ok" if free >= LOW_DISK_BYTES else "warning" if free >= NO_DISK_BYTES else "problem"
    remedy = None if status == "ok" else "free some space, or set TRAINDECK_HOME to a folder on another disk"
    yield Check(name="disk", status=status, message=f"{human_bytes(free)} free", remedy=remedy)


def _profiles() -> Iterator[Check]:
    try:
        warnings = registry_warnings()
        broken = [profile for profile in list_profiles() if profile.problem]
    except TraindeckError as error:
        yield Check(name="profiles", status="problem", message=f"{error.title}: {error.message}", remedy=error.hint)
        return
    for warning in warnings:
        yield Check(name="profiles", status="warning", message=warning)
    for profile in broken:
        remedy = f"traindeck profiles delete '{profile.name}'"
        if profile.origin == "shipped":
            remedy = f"install Traindeck anew: its own file {profile.path} was changed or damaged"
        yield Check(name="profiles", status="warning", message=f"{profile.name}: {profile.problem}", remedy=remedy)
    if not warnings and not broken:
        yield Check(name="profiles", status="ok", message=f"{len(list_profiles())} found, all whole")


def _detach() -> Check:
    if sys.platform == "win32":
        return Check(name="detach", status="problem", message="Windows is not supported", remedy="use WSL 2")
    how = detach.choose()
    warning = detach.warning(how)
    return Check(
        name="detach",
        status="warning" if warning else "ok",
        message=f"trainings are cut loose with {how}",
        remedy=warning,
    )


def _terminal() -> Iterator[Check]:
    columns, lines = shutil.get_terminal_size((0, 0))
    if not sys.stdout.isatty():
        yield Check(name="terminal", status="ok", message="output is not a terminal: colours and size unknown")
    else:
        small = columns < SMALLEST_TERMINAL[0] or lines < SMALLEST_TERMINAL[1]
        message = f"{os.environ.get('TERM', 'TERM not set')}, {columns} x {lines}, {_colours()}"
        remedy = "make the window at least 80 x 24" if small else None
        yield Check(name="terminal", status="warning" if small else "ok", message=message, remedy=remedy)
    if shows_unicode():
        yield Check(name="unicode", status="ok", message=f"{sys.stdout.encoding}")
    else:
        remedy = "set LANG to a UTF-8 locale such as C.UTF-8 for finer charts"
        yield Check(name="unicode", status="warning", message=f"{sys.stdout.encoding}: ASCII is shown", remedy=remedy)
    if os.environ.get("SSH_CONNECTION"):
        yield Check(name="ssh", status="ok", message="connected over SSH: trainings go on when it drops")
    if os.environ.get("TMUX") or os.environ.get("STY"):
        yield Check(name="tmux", status="ok", message="inside a terminal multiplexer")


def _colours() -> str:
    if os.environ.get("NO_COLOR"):
        return "no colours (NO_COLOR)"
    if os.environ.get("COLORTERM") in {"truecolor", "24bit"}:
        return "16 million colours"
    return "256 colours" if "256" in os.environ.get("TERM", "") else "16 colours"
