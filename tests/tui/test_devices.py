"""The screen of this machine's devices, and devices as rows of text."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from textual.pilot import Pilot

from engine.contract.machine import Device, Machine, Process
from tests.tui.looking import shown, until
from tests.tui.recorded import GIB
from tui import feeds
from tui.app import TraindeckApp
from tui.screens.devices import DevicesScreen, DeviceTable
from tui.widgets.device_rows import device_rows
from tui.widgets.glyphs import ASCII, UNICODE
from tui.widgets.painted import row_width


def gpu(index: int, **more: Any) -> Device:
    known: dict[str, Any] = {
        "name": "NVIDIA H100 80GB HBM3", "memory_total_bytes": 80 * GIB, "memory_used_bytes": 70 * GIB,
        "utilisation": 0.97, "temperature_celsius": 64.0, "power_watts": 640.0, "power_limit_watts": 700.0,
    }  # fmt: skip
    return Device(index=index, kind="cuda", **{**known, **more})


CPU = Device(index=0, kind="cpu", name="AMD EPYC 7R13", memory_total_bytes=16 * GIB, memory_used_bytes=3 * GIB, slots=2)
MACHINE = Machine(
    host="atelier",
    devices=(
        gpu(0, processes=(Process(pid=4711, name="python", owner="ada", memory_bytes=69 * GIB),)),
        gpu(1, temperature_celsius=88.0, memory_used_bytes=79 * GIB, throttle_reasons=("thermal slowdown",)),
        gpu(2, utilisation=None, memory_used_bytes=None, temperature_celsius=None, power_watts=None),
        gpu(3, problem="it fell off the bus"),
        CPU,
    ),
    cpu_cores=2, memory_total_bytes=16 * GIB, memory_available_bytes=13 * GIB,
)  # fmt: skip


def rows(width: int, height: int, devices: tuple[Device, ...] = MACHINE.devices, signs: Any = UNICODE) -> list[str]:
    past = {("cuda", 0): deque([0.5] * 300)}
    found = device_rows(devices, past, width, height, signs)
    assert len(found) <= height
    assert all(row_width(row) <= width for row in found)
    return ["".join(text for text, _ in row) for row in found]


@pytest.mark.parametrize("size", [(28, 5), (28, 40), (38, 16), (60, 20), (78, 20), (118, 36), (200, 50)])
def test_devices_fit_at_every_size(size: tuple[int, int]) -> None:
    lines = rows(*size)
    assert any("97 %" in line for line in lines)


def test_unknown_is_said_and_problems_too() -> None:
    lines = rows(118, 30)
    assert "n/a" in next(line for line in lines if line.startswith("2 "))
    assert "✗ it fell off the bus" in next(line for line in lines if line.startswith("3 "))


def test_a_sign_stands_beside_every_warning_colour() -> None:
    seen = "\n".join(rows(118, 30))
    assert "!88 °C" in seen
    assert "!79.0/80.0 GiB" in seen
    assert "! clock held down: thermal slowdown" in seen


def test_what_does_not_fit_is_counted() -> None:
    many = tuple(gpu(index) for index in range(16))
    assert "and 13 more" in rows(28, 4, many)[-1]


def test_processes_name_their_owners() -> None:
    assert any("python (ada)" in line and "4711" in line for line in rows(118, 30))


def test_ascii_is_ascii() -> None:
    assert all(line.isascii() for line in rows(38, 30, MACHINE.devices[:2], ASCII))


@pytest.fixture
def still_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The feed reads a machine that does not change."""

    def look(self: feeds.DevicesFeed) -> None:
        self.post(feeds.DevicesChanged(MACHINE))
        self.stop()

    monkeypatch.setattr(feeds.DevicesFeed, "round", look)
    monkeypatch.setattr("engine.hardware.detect.detect", lambda: MACHINE)
    monkeypatch.setenv("TRAINDECK_ASCII", "0")


async def in_sight(pilot: Pilot[Any]) -> None:
    await pilot.press("d")
    await until(pilot, lambda: bool(pilot.app.screen.query(DeviceTable)))
    await until(pilot, lambda: pilot.app.screen.query_one(DeviceTable).machine is not None)
    await until(pilot, lambda: "H100" in str(getattr(pilot.app, "machine_summary", "")))


@pytest.mark.usefixtures("still_devices")
@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_looks(size: tuple[int, int], snap_compare: Any) -> None:
    assert snap_compare(TraindeckApp(), terminal_size=size, run_before=in_sight)


async def test_this_very_machine_is_shown_live_and_only_while_in_front() -> None:
    app = TraindeckApp()
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("d")
        await until(pilot, lambda: isinstance(app.screen, DevicesScreen) and any("cpu" in line for line in shown(app)))
        screen = app.screen
        assert isinstance(screen, DevicesScreen)
        feed = screen._feed
        assert feed is not None
        await pilot.press("escape")
        await until(pilot, lambda: feed.stopped)
        assert screen._feed is None
