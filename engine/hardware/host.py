"""The host itself: its processors as one device, its memory, and its processes.

The only importer of psutil, which is loaded when a function first needs it: telling whether a process
lives, which every listing of the runs does, needs none on Linux.
"""

from __future__ import annotations

import os
import platform
import socket
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from engine.contract.machine import Device, Process
from engine.contract.rundir import ProcessIdentity
from engine.hardware.cgroup import Limits, read_limits

if TYPE_CHECKING:
    import psutil

_PROC = Path("/proc")
_CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal", "soc_thermal", "acpitz")
"""Names under which drivers report processor temperatures, the most specific first."""
_TEMPERATURE_SECONDS = 5.0
"""Reading sensors walks through sysfs and the chip's bus: not at every sample."""
_IP_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_START_TOLERANCE_SECONDS = 2.0
"""Start times that rest on the wall clock move a little when the clock is corrected."""


def host_name() -> str:
    """The name of this host, as in identities and telemetry."""
    return socket.gethostname()


def boot_id() -> str | None:
    """What the kernel calls this boot (Linux); None elsewhere."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip() or None
    except OSError:
        return None


def identity(pid: int) -> ProcessIdentity | None:
    """Who the process ``pid`` of this host is; None if there is no such process, or only its zombie."""
    if (stat := _stat(pid)) is not None:
        state, ticks = stat
        if state in "ZX":
            return None
        started = _boot_time() + ticks / os.sysconf("SC_CLK_TCK")
        return ProcessIdentity(pid=pid, started=started, start_ticks=ticks, boot_id=boot_id(), host=host_name())
    if _has_proc() or pid <= 0:
        return None
    psutil = _psutil()

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return ProcessIdentity(pid=pid, started=process.create_time(), boot_id=boot_id(), host=host_name())
    except psutil.NoSuchProcess:
        return None


def is_local(who: ProcessIdentity) -> bool:
    """Whether the process belongs to this host, so that it can be looked up and signalled."""
    return who.host == host_name()


def is_alive(who: ProcessIdentity) -> bool:
    """Whether that very process still runs. A zombie, or another process with its number, is not it.

    A process of another host (a run folder on a shared disk) cannot be looked up: it is taken to be alive,
    because calling a running training lost would invite a second one to write into the same files.
    """
    if not is_local(who):
        return True
    if who.boot_id is not None and who.boot_id != boot_id():
        return False
    if who.start_ticks is not None and _has_proc():
        stat = _stat(who.pid)
        return stat is not None and stat[0] not in "ZX" and stat[1] == who.start_ticks
    now = identity(who.pid)
    if now is None:
        return False
    if who.started is None or now.started is None:
        return True
    return abs(who.started - now.started) <= _START_TOLERANCE_SECONDS


def usable_cores(limits: Limits | None = None) -> int:
    """Whole cores that this process may keep busy: its affinity, cut by the quota of its control groups."""
    limits = read_limits() if limits is None else limits
    cores = len(_affinity() or ()) or os.cpu_count() or 1
    return cores if limits.cores is None else max(1, min(cores, int(limits.cores)))


def memory(limits: Limits | None = None) -> tuple[int, int]:
    """``(total, available)`` bytes of memory, no more than the control groups of this process allow."""
    psutil = _psutil()

    limits = read_limits() if limits is None else limits
    host = psutil.virtual_memory()
    total, available = host.total, host.available
    if limits.memory_bytes is not None:
        total = min(total, limits.memory_bytes)
        available = min(available, max(0, limits.memory_bytes - (limits.memory_used_bytes or 0)))
    return total, available


def interfaces() -> dict[str, tuple[str, ...]]:
    """The network interfaces that are up, and their IP addresses without scope."""
    psutil = _psutil()

    states = psutil.net_if_stats()
    return {
        name: tuple(entry.address.partition("%")[0] for entry in entries if entry.family in _IP_FAMILIES)
        for name, entries in psutil.net_if_addrs().items()
        if name in states and states[name].isup
    }


def cpu_name(cpuinfo: Path = _PROC / "cpuinfo") -> str | None:
    """What the processor is called; None where the system does not say (many ARM boards)."""
    if platform.system() == "Darwin":
        return sysctl("machdep.cpu.brand_string")
    try:
        with cpuinfo.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                key, _, value = line.partition(":")
                if key.strip() in {"model name", "Model"}:
                    return " ".join(value.split()) or None
    except OSError:
        return platform.processor() or None
    return None


def sysctl(name: str) -> str | None:
    """One value of ``sysctl`` (macOS, BSD); None where there is no such value or program."""
    import subprocess  # noqa: PLC0415 - only Apple machines are asked

    try:
        done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


class HostReader:
    """The processors of the host as one device. Utilisation is that since the previous reading."""

    def __init__(self) -> None:
        self._name = cpu_name()
        self._limits = read_limits()
        self.cores = usable_cores(self._limits)
        # Reading each core of a large machine costs much more than their sum: only where some are not ours.
        own = _affinity()
        self._own_cores = own if own is not None and len(own) < (os.cpu_count() or 0) else None
        self._times: tuple[float, float] | None = None
        self._processes: dict[int, psutil.Process] = {}
        self._temperature: tuple[float, float | None] | None = None

    def device(self, index: int = 0) -> Device:
        """The CPU device now; ``utilisation`` is None in the first reading."""
        if self._limits.memory_bytes is not None:
            self._limits = read_limits()
        total, available = memory(self._limits)
        return Device(
            index=index, kind="cpu", name=self._name, memory_total_bytes=total, memory_used_bytes=total - available,
            utilisation=self._utilisation(), temperature_celsius=self._temperature_celsius(), slots=self.cores,
        )  # fmt: skip

    def _utilisation(self) -> float | None:
        psutil = _psutil()

        if self._own_cores is None:
            readings = [psutil.cpu_times()]
        else:
            every = psutil.cpu_times(percpu=True)
            readings = [every[core] for core in sorted(self._own_cores) if core < len(every)]
        total = busy = 0.0
        for times in readings:
            # Linux counts the time of guests in user as well: adding it again would pass 100 %.
            spent = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
            total += spent
            busy += spent - times.idle - getattr(times, "iowait", 0.0)
        before, self._times = self._times, (total, busy)
        if before is None or total <= before[0]:
            return None
        return min(1.0, max(0.0, (busy - before[1]) / (total - before[0])))

    def _temperature_celsius(self) -> float | None:
        now = time.monotonic()
        if self._temperature is None or now - self._temperature[0] >= _TEMPERATURE_SECONDS:
            self._temperature = (now, _read_temperature())
        return self._temperature[1]

    def processes(self, ranks: dict[int, int]) -> tuple[Process, ...]:
        """The given processes (pid -> rank) that still live, with memory and processor use since the last call."""
        psutil = _psutil()

        self._processes = {pid: process for pid, process in self._processes.items() if pid in ranks}
        found = []
        for pid, rank in ranks.items():
            try:
                known = self._processes.get(pid)
                process = psutil.Process(pid) if known is None else known
                with process.oneshot():
                    # psutil's first answer is a meaningless 0: nothing to compare with.
                    percent = process.cpu_percent(None)
                    used, name = process.memory_info().rss, process.name()
            except psutil.NoSuchProcess:
                self._processes.pop(pid, None)
                continue
            except psutil.AccessDenied:
                found.append(Process(pid=pid, rank=rank))
                continue
            self._processes[pid] = process
            share = None if known is None else percent / 100
            found.append(Process(pid=pid, name=name, memory_bytes=used, rank=rank, cpu_fraction=share))
        return tuple(found)


def describe(pids: Iterable[int]) -> dict[int, tuple[str | None, str | None]]:
    """``{pid: (name, owner)}`` of processes of this host, None for what may not be known."""
    psutil = _psutil()

    found: dict[int, tuple[str | None, str | None]] = {}
    for pid in pids:
        name = owner = None
        try:
            process = psutil.Process(pid)
            name = process.name()
            owner = process.username()
        except (psutil.Error, KeyError):
            # Gone meanwhile, of another user, or of another pid namespace: what is known so far has to do.
            pass
        found[pid] = (name, owner)
    return found


def _read_temperature() -> float | None:
    psutil = _psutil()

    read = getattr(psutil, "sensors_temperatures", None)
    try:
        sensors = read() if read is not None else {}
    except (OSError, RuntimeError):
        # A chip that is being removed or a driver without answer: there is no temperature to show.
        return None
    for name in _CPU_SENSORS:
        if values := [entry.current for entry in sensors.get(name, ()) if entry.current and entry.current > 0]:
            return float(max(values))
    return None


@cache
def _psutil() -> ModuleType:
    """The library, loaded at the first use (a third of what detecting a machine costs)."""
    import psutil  # noqa: PLC0415 - most callers of this module never need it

    library: ModuleType = psutil
    return library


def _affinity() -> set[int] | None:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None


def _has_proc() -> bool:
    return (_PROC / "self/stat").exists()


def _stat(pid: int) -> tuple[str, int] | None:
    """``(state, start time in clock ticks after boot)`` from /proc; None without such a process or /proc."""
    try:
        text = (_PROC / str(pid) / "stat").read_bytes().decode(errors="replace")
    except OSError:
        return None
    # The name in parentheses may itself contain spaces and parentheses; fields count from the last one (man 5 proc).
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[19])


def _boot_time() -> float:
    for line in (_PROC / "stat").read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
