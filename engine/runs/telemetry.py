"""Device samples recorded with the run, once a second, whether or not a screen looks."""

from __future__ import annotations

import time
from collections.abc import Mapping

from engine.contract.events import DevicesFound
from engine.contract.journal import Journal
from engine.contract.layout import Layout
from engine.contract.machine import Device
from engine.contract.rundir import RunDirectory
from engine.hardware.host import host_name
from engine.hardware.sampler import Sampler

INTERVAL_SECONDS = 1.0


class Recorder:
    """Writes ``telemetry/<host>.jsonl``: the devices of the run once, then a sample a second."""

    def __init__(self, run: RunDirectory, layout: Layout) -> None:
        self._sampler = Sampler(() if layout.accelerator == "cpu" else layout.device_indices)
        self._journal = Journal(run.telemetry / f"{host_name()}.jsonl")
        self._next = 0.0
        self.devices: tuple[Device, ...] = self._sampler.devices()
        self._journal.write(DevicesFound(host=host_name(), devices=self.devices))

    def tick(self, ranks: Mapping[int, int]) -> None:
        """Take a sample if one is due. ``ranks`` are the workers: pid -> rank. Raises OSError on a full disk."""
        now = time.monotonic()
        if now >= self._next:
            # From the time it was due, so that the samples do not drift; a machine that slept is not made up for.
            self._next = max(self._next + INTERVAL_SECONDS, now + INTERVAL_SECONDS / 2)
            self._journal.write(self._sampler.sample(ranks))

    def close(self) -> None:
        self._sampler.close()
        self._journal.close()
