"""``hosts``: whether other machines can train together with this one, and what stands in the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec
import typer

from engine.contract.errors import TraindeckError
from engine.contract.hosts import LOCALHOST
from engine.contract.layout import Layout, resolve_layout
from engine.contract.machine import Device
from engine.contract.spec import RunSpec
from engine.hardware.detect import detect
from engine.runs.hosts import is_here
from engine.runs.preflight import HostReport, Preflight, preflight
from tui.commands.output import FAILED, emit, say, widest
from tui.commands.specs import chosen_spec, require_runnable
from tui.text import human_bytes, printable, table

VERSIONS = ("python", "traindeck", "torch", "lightning")


def hosts(names: Sequence[str], name_or_path: str | None, sets: list[str], *, as_json: bool) -> None:
    """Ask all hosts at once and print what was found. Exits with 1 where they cannot train together."""
    spec = None if name_or_path is None else chosen_spec(name_or_path, sets)
    asked = _asked(names, spec)
    layout = None if spec is None else _layout(spec, asked, name_or_path or "")
    found = preflight(asked, layout, spec)
    if as_json:
        emit({"ready": not found.problems, **msgspec.structs.asdict(found)})
    else:
        _say(found)
    if found.problems:
        raise typer.Exit(FAILED)


def _asked(names: Sequence[str], spec: RunSpec | None) -> list[str]:
    """The hosts in the order of their ranks: this one first where it is not named."""
    asked = list(names or (spec.layout.hosts if spec is not None and spec.layout.hosts else ()))
    if not asked:
        hint = "Name them as ssh knows them: traindeck hosts gpu1 gpu2; or give a spec that has layout.hosts."
        raise TraindeckError("No hosts are named", "", hint)
    return asked if any(map(is_here, asked)) else [LOCALHOST, *asked]


def _layout(spec: RunSpec, asked: Sequence[str], origin: str) -> Layout | None:
    """What each host has to have. Raises SpecError for a spec that cannot run."""
    spec = msgspec.structs.replace(spec, layout=msgspec.structs.replace(spec.layout, hosts=tuple(asked)))
    machine = detect()
    require_runnable(spec, machine, origin)
    layout = resolve_layout(spec, machine)
    return layout if isinstance(layout, Layout) else None


def _say(found: Preflight) -> None:
    rows = [
        [
            report.host,
            "PROBLEM" if report.problems else "warning" if report.warnings else "ok",
            *(report.versions.get(name) or "n/a" for name in VERSIONS),
            "n/a" if report.clock_skew_seconds is None else f"{report.clock_skew_seconds:+.2f} s",
            human_bytes(report.free_bytes),
            _devices(report.devices),
        ]
        for report in found.hosts
    ]
    if rows:
        say(table(["host", "state", *VERSIONS, "clock", "disk", "devices"], rows, right=[6, 7], widest=widest()))
        say()
    for problem in found.problems:
        say(f"PROBLEM  {printable(problem.message, newlines=False)}")
        if problem.hint:
            say(f"         {printable(problem.hint, newlines=False)}")
    for warning in found.warnings:
        say(f"warning  {printable(warning.message, newlines=False)}")
        if warning.hint:
            say(f"         {printable(warning.hint, newlines=False)}")
    if found.address is not None:
        say(f"ok       they meet at {found.address}; {_python_of(found.hosts)}")


def _devices(devices: Sequence[Device]) -> str:
    """``4 x NVIDIA A100``, or the cores where there is no accelerator."""
    usable = [device for device in devices if device.problem is None]
    counted = Counter(device.name or device.kind for device in usable if device.kind != "cpu")
    if counted:
        return ", ".join(f"{count} x {name}" for name, count in counted.items())
    cores = sum(device.slots for device in usable)
    return f"{cores} CPU core{'s' if cores != 1 else ''}" if cores else "n/a"


def _python_of(reports: Sequence[HostReport]) -> str:
    found = ", ".join(f"{report.python} on {report.host}" for report in reports if not report.here)
    return printable(f"Traindeck is run by {found}", newlines=False)
