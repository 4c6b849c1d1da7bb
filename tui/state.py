"""What the screens show of a run, folded from its events. No Textual, no files: see :mod:`tui.follow` for those."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from engine.contract.events import (
    AnyEvent,
    Checkpoint,
    CheckpointRemoved,
    DataReady,
    Detached,
    DevicesFound,
    Failure,
    Progress,
    Sample,
    Started,
    State,
    Telemetry,
    Train,
    Validation,
)
from engine.contract.layout import Layout
from engine.contract.machine import Device
from engine.contract.rundir import RunInfo
from engine.contract.spec import RunSpec
from engine.contract.states import LIVE
from engine.runs import pace
from tui.blocks import TRAIN_COLUMNS, TrainBlock
from tui.happenings import Happening, happening
from tui.host_devices import HostDevices
from tui.series import Derived, Series, Table, perplexity


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
        self.detached: Detached | None = None
        self.happenings: deque[Happening] = deque(maxlen=500)
        self.hosts: dict[str, HostDevices] = {}
        """Their devices, by the file that tells of them."""
        self._train = Table(TRAIN_COLUMNS)
        self._since = 0
        """Rows of the attempts before: the machine may be another now, so they say nothing of its speed."""
        self._validation = Table(("validation_loss", "bits_per_byte"))
        self.series: dict[str, Series | Derived] = {**self._train.series, **self._validation.series}
        self.series["train_perplexity"] = Derived(self._train.series["train_loss"], perplexity)
        self.series["validation_perplexity"] = Derived(self._validation.series["validation_loss"], perplexity)

    # ------------------------------------------------------------------ what it is doing

    @property
    def state(self) -> str:
        """One of the states of a run. The newest word wins, but the supervisor's last word is final."""
        newest = pace.newest_state(self._supervisor_state, self._worker_state)
        state = "queued" if newest is None else newest.state
        return "lost" if state in LIVE and self.lost_because else state

    @property
    def reason(self) -> str:
        """Why it is in that state, in words; may be empty."""
        if self.state == "lost":
            return self.lost_because or ""
        newest = pace.newest_state(self._supervisor_state, self._worker_state)
        return newest.reason if newest else ""

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
        """Time in training over all resumes, evaluations and checkpoints included."""
        return self.train.elapsed_seconds if self.train else None

    @property
    def tokens_per_second(self) -> float | None:
        """Speed over the last logging intervals, without evaluations; None before the first."""
        return pace.recent_speed(self._logged())

    def _logged(self) -> pace.Logged:
        first = max(self._since, len(self._train) - pace.WINDOW - 1)
        axes, rates = self._train.axes, self._train.series["tokens_per_second"].y
        return pace.Logged(axes["tokens"][first:], axes["seconds"][first:], rates[first:])

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
        """Seconds until the first budget is used up, as fast as lately; None unless it is training."""
        if self.state != "running":
            return None
        return pace.eta_seconds(self.started, self.step, self._logged())

    def live_devices(self) -> list[Device]:
        """The devices of the run on all its hosts, with their newest readings (unknown once it has ended)."""
        return [device for host in self.hosts.values() for device in host.devices(live=self.is_live)]

    # ------------------------------------------------------------------ folding

    def apply(self, event: AnyEvent | TrainBlock, source: str = "rank0") -> None:
        """Take in one event of the file ``source`` (``supervisor``, ``data``, ``rank0`` or a host's telemetry)."""
        if isinstance(event, State):
            if source == "supervisor":
                self._on_supervisor_state(event)
            elif self._worker_state is None or event.time >= self._worker_state.time:
                self._worker_state = event
            return
        if isinstance(event, DevicesFound):
            self.hosts.setdefault(source, HostDevices()).found(event)
        elif isinstance(event, Telemetry):
            self.hosts.setdefault(source, HostDevices()).sampled(event)
        fold = _FOLDS.get(type(event))
        if fold is not None:
            fold(self, event)
        if not isinstance(event, TrainBlock):
            self._tell(event)

    def _tell(self, event: AnyEvent) -> None:
        if (told := happening(event)) is not None:
            self.happenings.append(told)

    def _on_supervisor_state(self, event: State) -> None:
        if self._supervisor_state is None or event.time >= self._supervisor_state.time:
            self._supervisor_state = event
            again = event.state in {"queued", "starting"}
            if again and self.failure is not None and self.failure.time <= event.time:
                self.failure = None  # how the attempt before failed is history
        self._tell(event)

    def _on_started(self, event: Started) -> None:
        self.started = event
        step = event.step or 0
        self._train.drop_after(step)
        self._since = len(self._train)
        self._validation.drop_after(step)
        self.validations = [found for found in self.validations if (found.step or 0) <= step]
        self.validation = self.validations[-1] if self.validations else None
        if self.train is not None and (self.train.step or 0) > step:
            self.train = None  # its numbers are of steps that will be made again

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

    def _on_checkpoint(self, event: Checkpoint) -> None:
        self.checkpoint = self.checkpoints[event.name] = event

    def _on_checkpoint_removed(self, event: CheckpointRemoved) -> None:
        self.checkpoints.pop(event.name, None)

    def _on_failure(self, event: Failure) -> None:
        if self.failure is None or event.time >= self.failure.time:
            self.failure = event

    def _on_sample(self, event: Sample) -> None:
        self.samples.append(event)

    def _on_detached(self, event: Detached) -> None:
        self.detached = event


_FOLDS: dict[type, Callable[[RunView, Any], None]] = {
    Train: RunView._on_train,
    TrainBlock: RunView._on_block,
    Validation: RunView._on_validation,
    Started: RunView._on_started,
    Progress: RunView._on_progress,
    DataReady: RunView._on_data,
    Sample: RunView._on_sample,
    Checkpoint: RunView._on_checkpoint,
    CheckpointRemoved: RunView._on_checkpoint_removed,
    Failure: RunView._on_failure,
    Detached: RunView._on_detached,
}
