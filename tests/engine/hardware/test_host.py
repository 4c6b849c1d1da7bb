from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from engine.contract.rundir import ProcessIdentity
from engine.hardware import host
from engine.hardware.cgroup import Limits

SLEEPER = [sys.executable, "-c", "import sys; sys.stdin.read()"]


def eventually(true: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_this_process_is_itself_and_alive() -> None:
    me = host.identity(os.getpid())
    assert me is not None
    assert me.pid == os.getpid()
    assert me.host == host.host_name()
    assert host.is_alive(me)
    assert me.started is not None
    assert abs(me.started - time.time()) < 3600


def test_identity_survives_json() -> None:
    me = host.identity(os.getpid())
    assert me is not None
    again = msgspec.json.decode(msgspec.json.encode(me), type=ProcessIdentity)
    assert again == me
    assert host.is_alive(again)


def test_a_later_process_with_the_same_number_is_another() -> None:
    me = host.identity(os.getpid())
    assert me is not None
    if me.start_ticks is not None:
        assert not host.is_alive(msgspec.structs.replace(me, start_ticks=me.start_ticks - 1))
    assert me.started is not None
    former = msgspec.structs.replace(me, start_ticks=None, started=me.started - 60)
    assert not host.is_alive(former)


def test_a_correction_of_the_clock_does_not_kill_a_process() -> None:
    me = host.identity(os.getpid())
    assert me is not None
    if me.start_ticks is None:
        pytest.skip("this system does not count ticks since boot")
    assert me.started is not None
    assert host.is_alive(msgspec.structs.replace(me, started=me.started + 3600))


def test_processes_of_an_earlier_boot_are_gone() -> None:
    me = host.identity(os.getpid())
    assert me is not None
    assert not host.is_alive(msgspec.structs.replace(me, boot_id="00000000-0000-0000-0000-000000000000"))


def test_processes_of_other_hosts_are_not_called_dead() -> None:
    elsewhere = ProcessIdentity(pid=2**22 + 1, started=1.0, host="another-host")
    assert not host.is_local(elsewhere)
    assert host.is_alive(elsewhere)


def test_no_process_has_no_identity() -> None:
    assert host.identity(0) is None
    assert host.identity(-1) is None
    assert host.identity(2**22 + 1) is None


def test_a_zombie_is_dead() -> None:
    child = subprocess.Popen(SLEEPER, stdin=subprocess.PIPE)
    try:
        who = host.identity(child.pid)
        assert who is not None
        assert host.is_alive(who)
        child.send_signal(signal.SIGKILL)
        # Nobody waits for it here, so that it stays a zombie.
        assert eventually(lambda: not host.is_alive(who))
        assert host.identity(child.pid) is None
    finally:
        child.communicate()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no processor affinity")
def test_cores_honour_affinity() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert host.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(("quota", "cores"), [(1.5, 1), (0.25, 1), (10_000.0, None), (None, None)])
def test_cores_honour_a_quota(quota: float | None, cores: int | None) -> None:
    unlimited = host.usable_cores(Limits())
    assert host.usable_cores(Limits(cores=quota)) == (unlimited if cores is None else min(cores, unlimited))


def test_memory_honours_a_limit() -> None:
    total, available = host.memory(Limits())
    assert 0 < available <= total
    assert host.memory(Limits(memory_bytes=2**30, memory_used_bytes=2**29)) == (2**30, min(2**29, available))
    assert host.memory(Limits(memory_bytes=2**30, memory_used_bytes=2**31)) == (2**30, 0)
    assert host.memory(Limits(memory_bytes=2**60)) == pytest.approx((total, available), rel=0.1)


def test_utilisation_needs_two_readings() -> None:
    reader = host.HostReader()
    first = reader.device()
    assert first.utilisation is None
    assert first.kind == "cpu"
    assert first.slots == host.usable_cores()

    def burn() -> bool:
        sum(i * i for i in range(50_000))
        busy = reader.device().utilisation
        return busy is not None and 0 < busy <= 1

    assert eventually(burn)


def test_own_processes_are_measured() -> None:
    reader = host.HostReader()
    (first,) = reader.processes({os.getpid(): 3})
    assert (first.pid, first.rank, first.cpu_fraction) == (os.getpid(), 3, None)
    assert first.memory_bytes is not None
    assert first.memory_bytes > 2**20
    sum(i * i for i in range(200_000))
    (second,) = reader.processes({os.getpid(): 3})
    assert second.cpu_fraction is not None
    assert reader.processes({2**22 + 1: 0}) == ()


def test_processes_of_nobody_have_no_name() -> None:
    described = host.describe([os.getpid(), 2**22 + 1])
    assert described[os.getpid()][0]
    assert described[2**22 + 1] == (None, None)


def test_the_processor_has_a_name(tmp_path: Path) -> None:

    folder = tmp_path
    (folder / "x86").write_text("processor\t: 0\nmodel name\t: Some  CPU @ 2GHz\n")
    (folder / "arm").write_text("processor\t: 0\nCPU implementer\t: 0x41\n")
    if sys.platform == "linux":
        assert host.cpu_name(folder / "x86") == "Some CPU @ 2GHz"
        assert host.cpu_name(folder / "arm") is None
