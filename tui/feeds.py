"""Background readers: each runs in a thread worker of the app, only reads, and only posts messages.

A worker dies with the node that started it, so :func:`start` gives it to the app; the screen that wanted it
stops it when it goes away. A feed posts nothing while nothing changes.
"""

# ruff: noqa: PLC0415 (what reads devices and runs is loaded after the first paint, which needs none of it)
from __future__ import annotations

import time
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from textual.message import Message

from engine.contract.errors import TraindeckError
from engine.contract.machine import Machine
from engine.contract.rundir import RunDirectory

if TYPE_CHECKING:
    from textual.app import App
    from textual.message_pump import MessagePump
    from textual.worker import Worker

    from engine.runs.status import RunStatus
    from tui.follow import Part, RunHead

RUN_SECONDS = 0.22
"""Between two looks at the files of a run: four to five a second."""
LIVENESS_SECONDS = 2.0
DEVICES_SECONDS = 1.0
RUNS_SECONDS = 1.0


class FeedFailed(Message):
    """A round ended with an error that nobody foresaw: what is shown may be old. The next round tries again."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class Feed:
    """A loop in a thread; subclasses say what happens in each round."""

    seconds = 1.0
    """Pause between two rounds."""

    def __init__(self, target: MessagePump) -> None:
        self.target = target
        self._stopped = Event()
        self._failure = ""
        """How the round before failed: the same is told once."""

    def stop(self) -> None:
        """End the loop soon; from any thread."""
        self._stopped.set()

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def loop(self) -> None:
        """Runs in the thread until :meth:`stop`, or until the one who listens is gone."""
        try:
            while not self.stopped:
                self._try()
                self._stopped.wait(self.seconds)
        finally:
            self.close()

    def _try(self) -> None:
        try:
            self.round()
        except Exception as error:  # whatever it is, a person is told, and the feed goes on
            failure = f"{type(error).__name__}: {error}"
            if failure != self._failure:
                self.post(FeedFailed(error))
            self._failure = failure
        else:
            self._failure = ""

    @abstractmethod
    def round(self) -> None:
        """Read, and post what is new."""

    def close(self) -> None:
        """Let go of what was opened."""

    def post(self, message: Message) -> None:
        if not self.target.post_message(message):
            self.stop()


def start(app: App[Any], feed: Feed) -> Worker[None]:
    """Run ``feed`` in a thread of ``app``."""
    return app.run_worker(
        feed.loop, thread=True, name=type(feed).__name__, group=f"feed-{id(feed)}", exit_on_error=False
    )


@dataclass(frozen=True, slots=True)
class RunBatch:
    """What became known of a run since the batch before."""

    parts: tuple[Part, ...] = ()
    log: tuple[str, ...] = ()
    """New lines of the log; control characters are still in them."""
    head: RunHead | None = None
    """In the first batch, and again when the directory was completed."""
    lost_because: str | None = None
    complete: bool = True
    """False while there is more of a long file to read: a screen may wait with drawing."""
    problem: str | None = None
    """Why the files cannot be read."""


class RunChanged(Message):
    """New lines in the files of a run."""

    def __init__(self, run: RunDirectory, batch: RunBatch) -> None:
        super().__init__()
        self.run = run
        self.batch = batch


class RunFeed(Feed):
    """Follows the files of one run and posts :class:`RunChanged`."""

    seconds = RUN_SECONDS

    def __init__(self, target: MessagePump, run: RunDirectory) -> None:
        from tui.follow import LogTail, RunFollower

        super().__init__(target)
        self.run = run
        self._follower = RunFollower(run)
        self._log = LogTail(run.log)
        self._head: RunHead | None = None
        self._plan_mark: tuple[int, int] | None = None
        self._lost: str | None = None
        self._reported: str | None = None
        self._problem: str | None = None
        self._looked = -LIVENESS_SECONDS
        self._complete = False
        """Whether the batch before was the last of what there was; a screen waits for that one with drawing."""

    def round(self) -> None:
        """Post what is new, a few megabytes at a time until the present end of the files is reached."""
        batch = self._read()
        while batch is not None and not self.stopped:
            self.post(RunChanged(self.run, batch))
            batch = self._read() if not batch.complete else None

    def _read(self) -> RunBatch | None:
        """The next batch; None if nothing changed."""
        head: RunHead | None = None
        problem: str | None = None
        log: tuple[str, ...] = ()
        parts: tuple[Part, ...] = ()
        try:
            if not self.run.path.is_dir():
                self._lost = problem = "the directory of this run is gone"
            if self._head is None or self._head.layout is None or _mark(self.run.plan) != self._plan_mark:
                head = self._new_head()
            parts = tuple(self._follower.read_blocks())
            log = tuple(self._log.read())
            self._look_for_life()
        except (OSError, TraindeckError) as error:
            problem = str(error)
        changed = (problem, self._lost) != (self._problem, self._reported)
        if self._complete and not (parts or log or head or changed):
            return None
        self._problem, self._reported = problem, self._lost
        self._complete = problem is not None or not self._follower.more
        return RunBatch(
            parts=parts, log=log, head=head, lost_because=self._lost, complete=self._complete, problem=problem
        )  # fmt: skip

    def _new_head(self) -> RunHead | None:
        """What the small files say, where that is news: the layout of a run can change between two attempts."""
        from tui.follow import read_head

        self._plan_mark = _mark(self.run.plan)
        head = read_head(self.run)
        if head == self._head:
            return None
        self._head = head
        return head

    def _look_for_life(self) -> None:
        now = time.monotonic()
        if now - self._looked < LIVENESS_SECONDS or self._head is None or self._head.info is None:
            return
        from engine.runs.liveness import lost_because

        self._looked = now
        self._lost = lost_because(self.run, self._head.info.created)


def _mark(path: Path) -> tuple[int, int] | None:
    """What tells one version of a file from another; None where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns


class DevicesChanged(Message):
    """The devices of this machine were read."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self.machine = machine


class DevicesFeed(Feed):
    """Reads the devices of this machine once a second and posts :class:`DevicesChanged`."""

    seconds = DEVICES_SECONDS

    def __init__(self, target: MessagePump) -> None:
        super().__init__(target)
        self._sampler: Any = None

    def round(self) -> None:
        """Post the machine as it is now."""
        if self._sampler is None:
            from engine.hardware.sampler import Sampler

            self._sampler = Sampler()
        self.post(DevicesChanged(self._sampler.machine()))

    def close(self) -> None:
        if self._sampler is not None:
            self._sampler.close()


class RunsChanged(Message):
    """The list of runs, or the status of one, is different from before."""

    def __init__(self, statuses: tuple[RunStatus, ...], problem: str | None = None) -> None:
        super().__init__()
        self.statuses = statuses
        self.problem = problem
        """Why the list cannot be read."""


class RunsFeed(Feed):
    """Lists the runs once a second and posts :class:`RunsChanged` when something in the list changed."""

    seconds = RUNS_SECONDS

    def __init__(self, target: MessagePump) -> None:
        super().__init__(target)
        self._known: tuple[tuple[RunStatus, ...], str | None] | None = None

    def round(self) -> None:
        """Post the list if it changed."""
        from engine.runs.status import list_runs

        try:
            found: tuple[tuple[RunStatus, ...], str | None] = (tuple(list_runs()), None)
        except (OSError, TraindeckError) as error:
            found = (self._known[0] if self._known else (), str(error))
        if found != self._known:
            self._known = found
            self.post(RunsChanged(*found))
