"""Device samples recorded with the run, once a second, whether or not a screen looks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from engine.contract.events import DevicesFound, Event
from engine.contract.hosts import file_stem
from engine.contract.journal import Journal
from engine.contract.layout import Layout
from engine.contract.machine import Device
from engine.contract.rundir import RunDirectory
from engine.hardware.sampler import Sampler

INTERVAL_SECONDS = 1.0


class Recorder:
    """Says what the devices of a run on this host are once, then a sample a second."""

    def __init__(self, layout: Layout, host: str, say: Callable[[Event], None]) -> None:
        self._sampler = Sampler(() if layout.accelerator == "cpu" else layout.device_indices)
        self._say = say
        self._next = 0.0
        self.devices: tuple[Device, ...] = self._sampler.devices()
        say(DevicesFound(host=host, devices=self.devices))

    def tick(self, ranks: Mapping[int, int]) -> None:
        """Take a sample if one is due. ``ranks`` are the workers: pid -> rank. Raises OSError on a full disk."""
        now = time.monotonic()
        if now >= self._next:
            # From the time it was due, so that the samples do not drift; a machine that slept is not made up for.
            self._next = max(self._next + INTERVAL_SECONDS, now + INTERVAL_SECONDS / 2)
            self._say(self._sampler.sample(ranks))

    def close(self) -> None:
        self._sampler.close()


def journal_of(run: RunDirectory, host: str) -> Journal:
    """``telemetry/<host>.jsonl``, opened to write."""
    return Journal(run.telemetry / f"{file_stem(host)}.jsonl")
