"""All devices of this machine, live, with their processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType

from engine.contract.machine import Machine
from tui import feeds
from tui.actions import bindings
from tui.host_devices import HISTORY, DeviceKey
from tui.narrow import narrow
from tui.screens.frame import DeckScreen
from tui.series import NAN
from tui.text import human_bytes, printable
from tui.widgets.device_rows import device_rows
from tui.widgets.painted import Painted, Row


class DeviceTable(Painted, can_focus=True):
    """The devices of a machine as a table with the last minutes of each; ``show`` takes a new reading."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.machine: Machine | None = None
        self._history: dict[DeviceKey, deque[float]] = {}

    def show(self, machine: Machine) -> None:
        """Show a reading, and keep its utilisation for the graphs."""
        self.machine = machine
        for device in machine.devices:
            past = self._history.setdefault((device.kind, device.index), deque(maxlen=HISTORY))
            past.append(NAN if device.utilisation is None else device.utilisation)
        self.repaint()

    def heading(self) -> Row:
        return [("devices", "title")]

    def aside(self, room: int) -> Row:
        del room
        machine = self.machine
        if machine is None:
            return []
        cores = f"{machine.cpu_cores} core{'s' if machine.cpu_cores != 1 else ''}"
        free = f"{human_bytes(machine.memory_available_bytes)} free of {human_bytes(machine.memory_total_bytes)}"
        return [(f"{printable(machine.host, newlines=False)}  {cores}  {free}", "label")]

    def content(self, width: int, height: int) -> Sequence[Row]:
        if self.machine is None:
            return [[("looking at the devices", "label")]]
        rows = device_rows(self.machine.devices, self._history, width - 2, height, self.signs)
        return [[(" ", ""), *row] for row in rows]


class DevicesScreen(DeckScreen):
    """Reads the devices once a second while it is in front, and not otherwise."""

    PLACE = "devices"
    BINDINGS: ClassVar[list[BindingType]] = bindings("devices")

    def __init__(self) -> None:
        super().__init__()
        narrow(self)
        self._feed: feeds.DevicesFeed | None = None

    def compose_body(self) -> ComposeResult:
        yield DeviceTable(id="all-devices")

    def on_screen_resume(self) -> None:
        """In front: begin to read."""
        self._stop()
        self._feed = feeds.DevicesFeed(self)
        feeds.start(self.app, self._feed)

    def on_screen_suspend(self) -> None:
        self._stop()

    def on_unmount(self) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._feed is not None:
            self._feed.stop()
            self._feed = None

    @on(feeds.DevicesChanged)
    def _take(self, message: feeds.DevicesChanged) -> None:
        self.query_one(DeviceTable).show(message.machine)
