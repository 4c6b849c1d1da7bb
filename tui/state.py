"""What the screens show of a run, folded from its events. No Textual, no files: see :mod:`tui.follow` for those."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from engine.contract.events import (
    AnyEvent,
    Checkpoint,
    CheckpointRemoved,
    CommandDone,
    DataReady,
    Detached,
    DevicesFound,
    Ended,
    Failure,
    Launched,
    Notice,
    Progress,
    Sample,
    Started,
    State,
    Telemetry,
    Train,
    Validation,
)
from engine.contract.layout import Layout
from engine.contract.machine import Device, DeviceSample
from engine.contract.rundir import RunInfo
from engine.contract.spec import RunSpec
from engine.contract.states import ENDED, LIVE
from tui.series import NAN, Derived, Series, Table, perplexity

HISTORY = 240
"""Samples kept of each device: four minutes at one a second."""
RECENT = 20
"""Logging intervals over which speed is averaged for the time left."""
TRAIN_COLUMNS = ("train_loss", "lr", "grad_norm", "tokens_per_second", "step_seconds")
DeviceKey = tuple[str, int]
"""Kind and index: a CPU has an index of its own."""


@dataclass(frozen=True, slots=True)
class TrainBlock:
    """Consecutive :class:`Train` events as columns: folded at once, however many they are."""

    axes: tuple[array[float], array[float], array[float]]
    """Steps (ascending), tokens, trained seconds."""
    columns: tuple[array[float], ...]
    """In the order of ``TRAIN_COLUMNS``."""
    last: Train

    @classmethod
    def of(cls, events: list[Train]) -> TrainBlock:
        def column(values: list[float | None]) -> array[float]:
            return array("d", [NAN if value is None else value for value in values])

        return cls(
            axes=(
                column([event.step for event in events]),
                array("d", [event.tokens for event in events]),
                array("d", [event.elapsed_seconds for event in events]),
            ),
            columns=(
                column([event.loss for event in events]),
                array("d", [event.lr for event in events]),
                column([event.grad_norm for event in events]),
                array("d", [event.tokens_per_second for event in events]),
                array("d", [event.step_seconds for event in events]),
            ),
            last=events[-1],
        )


@dataclass(frozen=True, slots=True)
class Happening:
    """One line of the events pane."""

    when: float
    step: int | None
    level: str
    """``info``, ``warning`` or ``error``."""
    text: str
    """Not yet neutralised."""


class RunView:
    """The state of one run as a person sees it. Fields are read by the screens and written by ``apply``."""

    def __init__(self, info: RunInfo | None = None, spec: RunSpec | None = None, layout: Layout | None = None) -> None:
        self.info = info
        self.spec = spec
        self.layout = layout
        self.lost_because: str | None = None
        """Why a run that says it is live is not; None while its supervisor lives, or nobody looked."""
        self._supervisor_state: State | None = None
        self._worker_state: State | None = None
        self.started: Started | None = None
        self.train: Train | None = None
        self.validation: Validation | None = None
        self.validations: list[Validation] = []
        self.data: DataReady | None = None
        self.progress: Progress | None = None
        self.stages: dict[str, Progress] = {}
        """Newest progress of each stage of the preparation, in the order in which they began."""
        self.samples: deque[Sample] = deque(maxlen=64)
        self.checkpoints: dict[str, Checkpoint] = {}
        self.checkpoint: Checkpoint | None = None
        self.failure: Failure | None = None
        self.ended: Ended | None = None
        self.detached: Detached | None = None
        self.happenings: deque[Happening] = deque(maxlen=500)
        self.devices: dict[DeviceKey, Device] = {}
        self.host: str | None = None
        self.telemetry: Telemetry | None = None
        self.readings: dict[DeviceKey, DeviceSample] = {}
        self.history: dict[DeviceKey, deque[float]] = {}
        """Utilisation of each device, newest last; NaN where unknown."""
        self._train = Table(TRAIN_COLUMNS)
        self._validation = Table(("validation_loss", "bits_per_byte"))
        self.series: dict[str, Series | Derived] = {**self._train.series, **self._validation.series}
        self.series["train_perplexity"] = Derived(self._train.series["train_loss"], perplexity)
        self.series["validation_perplexity"] = Derived(self._validation.series["validation_loss"], perplexity)

    # ------------------------------------------------------------------ what it is doing

    @property
    def state(self) -> str:
        """One of the states of a run. The newest word wins, but the supervisor's last word is final."""
        newest = self._newest_state()
        state = "queued" if newest is None else newest.state
        return "lost" if state in LIVE and self.lost_because else state

    @property
    def reason(self) -> str:
        """Why it is in that state, in words; may be empty."""
        if self.state == "lost":
            return self.lost_because or ""
        newest = self._newest_state()
        return newest.reason if newest else ""

    def _newest_state(self) -> State | None:
        supervisor, worker = self._supervisor_state, self._worker_state
        if supervisor is None or worker is None:
            return supervisor or worker
        final = supervisor.state in ENDED or supervisor.time >= worker.time
        return supervisor if final else worker

    @property
    def is_live(self) -> bool:
        return self.state in LIVE

    @property
    def is_preparing(self) -> bool:
        """Whether it has not come to training yet, and still may."""
        return self.started is None and self.is_live

    @property
    def step(self) -> int:
        """Optimiser steps completed."""
        if self.train is not None and self.train.step is not None:
            return self.train.step
        return (self.started.step or 0) if self.started else 0

    @property
    def max_steps(self) -> int | None:
        return self.started.max_steps if self.started else self.spec.budget.max_steps if self.spec else None

    @property
    def tokens(self) -> int:
        return self.train.tokens if self.train else 0

    @property
    def elapsed_seconds(self) -> float | None:
        """Trained time over all resumes."""
        return self.train.elapsed_seconds if self.train else None

    @property
    def tokens_per_second(self) -> float | None:
        """Mean over the last logging intervals; None before the first."""
        rates = self._train.series["tokens_per_second"]
        found = rates.stretch(max(0, len(rates) - RECENT), len(rates))
        return found.mean if found else None

    @property
    def best_validation(self) -> Validation | None:
        """The evaluation with the lowest loss."""
        known = [found for found in self.validations if found.loss is not None]
        return min(known, key=lambda found: found.loss or 0.0) if known else None

    def recent_happenings(self) -> list[Happening]:
        """What happened, oldest first, whichever file it was written to."""
        return sorted(self.happenings, key=lambda happening: happening.when)

    def done_fraction(self) -> float | None:
        """How much of the budget that ends first is used, 0 to 1; None without a budget."""
        return self._nearest_budget()[0]

    def budget_word(self) -> str:
        """Which budget that is: ``steps``, ``tokens`` or ``time``; empty without one."""
        return self._nearest_budget()[1]

    def _nearest_budget(self) -> tuple[float | None, str]:
        begun = self.started
        if begun is None:
            return None, ""
        budgets = [
            (self.step, begun.max_steps, "steps"),
            (self.tokens, begun.max_tokens, "tokens"),
            (self.elapsed_seconds or 0.0, begun.max_seconds, "time"),
        ]
        shares = [(min(1.0, done / most), word) for done, most, word in budgets if most]
        return max(shares, key=lambda share: share[0], default=(None, ""))

    def eta_seconds(self) -> float | None:
        """Seconds of training until the first budget is used up, at the recent speed; None unless it is training."""
        begun, speed = self.started, self.tokens_per_second
        if begun is None or self.state != "running":
            return None
        left = []
        if begun.max_seconds is not None:
            left.append(begun.max_seconds - (self.elapsed_seconds or 0.0))
        if speed:
            tokens_per_step = begun.batch_size * begun.sequence_length
            if begun.max_steps is not None:
                left.append((begun.max_steps - self.step) * tokens_per_step / speed)
            if begun.max_tokens is not None:
                left.append((begun.max_tokens - self.tokens) / speed)
        return max(0.0, min(left)) if left else None

    def live_devices(self) -> list[Device]:
        """The devices of the run with their newest readings (unknown once it has ended), the CPU last."""
        keys = sorted({*self.devices, *self.readings}, key=lambda key: (key[0] == "cpu", key))
        return [self._live_device(key) for key in keys]

    def _live_device(self, key: DeviceKey) -> Device:
        found = self.devices.get(key)
        sample = self.readings.get(key) if self.is_live else None
        if found is None:
            found = Device(kind=self.readings[key].kind, index=key[1])
        return msgspec.structs.replace(
            found,
            memory_used_bytes=sample and sample.memory_used_bytes,
            utilisation=sample and sample.utilisation,
            temperature_celsius=sample and sample.temperature_celsius,
            power_watts=sample and sample.power_watts,
            clock_mhz=sample and sample.clock_mhz,
            throttle_reasons=sample and sample.throttle_reasons,
            processes=sample and sample.processes,
            problem=sample.problem if sample else found.problem,
        )

    # ------------------------------------------------------------------ folding

    def apply(self, event: AnyEvent | TrainBlock, source: str = "rank0") -> None:
        """Take in one event of the file ``source`` (``supervisor``, ``data``, ``rank0`` or a host's telemetry)."""
        if isinstance(event, State):
            if source == "supervisor":
                self._on_supervisor_state(event)
            elif self._worker_state is None or event.time >= self._worker_state.time:
                self._worker_state = event
            return
        fold = _FOLDS.get(type(event))
        if fold is not None:
            fold(self, event)

    def _on_supervisor_state(self, event: State) -> None:
        if self._supervisor_state is None or event.time >= self._supervisor_state.time:
            self._supervisor_state = event
            if event.state in {"queued", "starting"}:  # another attempt: how the one before ended is history
                self.ended = None
                if self.failure is not None and self.failure.time <= event.time:
                    self.failure = None
        self._happened(event, "error" if event.state == "failed" else "info", _state_words(event))

    def _on_started(self, event: Started) -> None:
        self.started = event
        step = event.step or 0
        self._train.drop_after(step)
        self._validation.drop_after(step)
        self.validations = [found for found in self.validations if (found.step or 0) <= step]
        self.validation = self.validations[-1] if self.validations else None
        if self.train is not None and (self.train.step or 0) > step:
            self.train = None  # its numbers are of steps that will be made again
        if event.resumed_from:
            self._happened(event, "info", f"goes on from checkpoint {event.resumed_from}")

    def _on_train(self, event: Train) -> None:
        self.train = event
        values = (event.loss, event.lr, event.grad_norm, event.tokens_per_second, event.step_seconds)
        self._train.append(event.step or 0, event.tokens, event.elapsed_seconds, values)

    def _on_block(self, block: TrainBlock) -> None:
        self.train = block.last
        self._train.extend(block.axes, block.columns)

    def _on_validation(self, event: Validation) -> None:
        self.validation = event
        # An evaluation happens between two intervals: it lies where the one before it ended.
        tokens, seconds = (self.train.tokens, self.train.elapsed_seconds) if self.train else (0, 0.0)
        self._validation.append(event.step or 0, tokens, seconds, (event.loss, event.bits_per_byte))
        while self.validations and (self.validations[-1].step or 0) >= (event.step or 0):
            self.validations.pop()
        self.validations.append(event)

    def _on_progress(self, event: Progress) -> None:
        self.progress = event
        self.stages[event.what] = event

    def _on_data(self, event: DataReady) -> None:
        self.data = event
        self.progress = None
        words = "was prepared before" if event.cached else "is prepared"
        self._happened(event, "info", f"the data {words}: {event.train_tokens:,} tokens to train on")

    def _on_checkpoint(self, event: Checkpoint) -> None:
        self.checkpoint = self.checkpoints[event.name] = event
        self._happened(event, "info", f"checkpoint {event.name}" + (" (best so far)" if event.best else ""))

    def _on_checkpoint_removed(self, event: CheckpointRemoved) -> None:
        self.checkpoints.pop(event.name, None)

    def _on_failure(self, event: Failure) -> None:
        if self.failure is None or event.time >= self.failure.time:
            self.failure = event
        self._happened(event, "error", f"{event.title}: {event.message}" if event.message else event.title)

    def _on_ended(self, event: Ended) -> None:
        self.ended = event

    def _on_sample(self, event: Sample) -> None:
        self.samples.append(event)
        self._happened(event, "info", "wrote a sample of text")

    def _on_notice(self, event: Notice) -> None:
        self._happened(event, event.level, event.message)

    def _on_command(self, event: CommandDone) -> None:
        said = f": {event.message}" if event.message else ""
        words = f"{event.action} done{said}" if event.accepted else f"{event.action} refused{said}"
        self._happened(event, "info" if event.accepted else "warning", words)

    def _on_launched(self, event: Launched) -> None:
        self._happened(event, "info", f"started the {event.what} process (pid {event.pid})")

    def _on_detached(self, event: Detached) -> None:
        self.detached = event

    def _on_devices(self, event: DevicesFound) -> None:
        self.host = event.host
        for device in event.devices:
            self.devices[device.kind, device.index] = device

    def _on_telemetry(self, event: Telemetry) -> None:
        self.telemetry = event
        for sample in event.samples:
            key = (sample.kind, sample.index)
            self.readings[key] = sample
            self.history.setdefault(key, deque(maxlen=HISTORY)).append(
                NAN if sample.utilisation is None else sample.utilisation
            )

    def _happened(self, event: Any, level: str, text: str) -> None:
        self.happenings.append(Happening(when=event.time, step=event.step, level=level, text=text))


def _state_words(event: State) -> str:
    return f"{event.state}: {event.reason}" if event.reason else event.state


_FOLDS: dict[type, Callable[[RunView, Any], None]] = {
    Train: RunView._on_train,
    TrainBlock: RunView._on_block,
    Telemetry: RunView._on_telemetry,
    Validation: RunView._on_validation,
    Started: RunView._on_started,
    Progress: RunView._on_progress,
    DataReady: RunView._on_data,
    Sample: RunView._on_sample,
    Checkpoint: RunView._on_checkpoint,
    CheckpointRemoved: RunView._on_checkpoint_removed,
    Failure: RunView._on_failure,
    Ended: RunView._on_ended,
    Notice: RunView._on_notice,
    CommandDone: RunView._on_command,
    Launched: RunView._on_launched,
    Detached: RunView._on_detached,
    DevicesFound: RunView._on_devices,
}
