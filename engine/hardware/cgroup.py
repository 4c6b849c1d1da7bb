"""Limits that a container or a job scheduler sets through Linux control groups, versions 1 and 2.

A limit on any ancestor of the process's group binds too, so each file is read on every level up to the mount.
Where nothing limits, and on other systems, the answers are None.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

_UNLIMITED_BYTES = 1 << 60
"""Version 1 writes "no limit" as the largest multiple of a page, beyond any real memory."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the control groups of this process allow; None where they set no limit."""

    cores: float | None = None
    """Processor time per second of wall time."""
    memory_bytes: int | None = None
    memory_used_bytes: int | None = None
    """Used under that memory limit, without file cache that can be dropped."""


def read_limits(root: Path = Path("/")) -> Limits:
    """The limits in force for this process. ``root`` stands for ``/`` (a test puts a folder there)."""
    cores: list[float] = []
    memory: list[tuple[int, int | None]] = []
    for version, folder in _folders(root):
        quota = _cores_v2(folder) if version == 2 else _cores_v1(folder)
        if quota is not None:
            cores.append(quota)
        limit = _number(folder / ("memory.max" if version == 2 else "memory.limit_in_bytes"))
        if limit is not None and limit < _UNLIMITED_BYTES:
            memory.append((limit, _memory_used(folder, version)))
    tightest = min(memory, key=lambda pair: pair[0] - (pair[1] or 0), default=None)
    return Limits(
        cores=min(cores, default=None),
        memory_bytes=min((limit for limit, _ in memory), default=None),
        memory_used_bytes=None if tightest is None else tightest[1],
    )


def _folders(root: Path) -> Iterator[tuple[int, Path]]:
    """``(version, folder)`` of every group this process is in, with all ancestors inside the mount."""
    groups = {}
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            groups[controller] = path
    for line in _text(root / "proc/self/mountinfo").splitlines():
        # man 5 proc: "36 35 98:0 /root /mount options [optional fields] - type source super-options"
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3 or kind[0] not in {"cgroup", "cgroup2"}:
            continue
        version = 2 if kind[0] == "cgroup2" else 1
        wanted = {""} if version == 2 else {"cpu", "memory"} & set(kind[2].split(","))
        for controller in wanted & groups.keys():
            mount = root / fields[4].lstrip("/")
            inside = groups[controller].removeprefix(fields[3].rstrip("/"))
            folder = mount / inside.lstrip("/")
            # Without a cgroup namespace the path may not exist under the mount; the mount itself then is the group.
            folder = folder if folder.is_dir() else mount
            yield version, folder
            while folder != mount and mount in folder.parents:
                folder = folder.parent
                yield version, folder


def _cores_v2(folder: Path) -> float | None:
    quota, _, period = _text(folder / "cpu.max").strip().partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _cores_v1(folder: Path) -> float | None:
    quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return quota / period if quota and period and quota > 0 else None


def _memory_used(folder: Path, version: int) -> int | None:
    used = _number(folder / ("memory.current" if version == 2 else "memory.usage_in_bytes"))
    if used is None:
        return None
    field = "inactive_file" if version == 2 else "total_inactive_file"
    for line in _text(folder / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name == field and value.isdigit():
            return max(0, used - int(value))
    return used


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.removeprefix("-").isdigit() else None


def _text(path: Path) -> str:
    """The content of a small kernel file; empty where there is none, which here means "no limit"."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
