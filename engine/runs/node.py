"""``python -P -m engine.runs.node``: the part of a run on one of its other hosts.

The supervisor of the run starts it through ssh and gives it everything by its standard input; it prepares the data,
starts the launcher of the workers of this host, and tells how they and the devices do on its standard output. When
its input ends, or nothing comes for a minute, it ends the workers and itself: nothing is left over.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence

import filelock
import msgspec

from engine.contract.errors import TraindeckError
from engine.contract.events import Failure, Launched
from engine.contract.journal import LineReader
from engine.contract.plan import PlanFile, read_plan
from engine.contract.records import read_record
from engine.contract.rundir import RunDirectory, WorkerError
from engine.runs.child import Child
from engine.runs.command import SCRATCH, data_command, process_environment, training_command, training_environment
from engine.runs.failure import Attempt, explain_data
from engine.runs.logfile import plain_lines
from engine.runs.nodehome import lock_of, settle
from engine.runs.nodestreams import Inbox, Outbox
from engine.runs.processes import Known, end_leftovers, folder_of, have_all_ended, read_ranks
from engine.runs.stopping import AGENT_SECONDS
from engine.runs.telemetry import Recorder
from engine.runs.wire import Begin, Exited, Log, Prepared, RankEnded, RankFailed, Ready

TICK_SECONDS = 0.2
LOOK_SECONDS = 1.0
LINES_A_TICK = 200
LOCK_SECONDS = 20.0
"""How long the node of an earlier attempt may take to leave."""


class _Link(msgspec.Struct, frozen=True):
    """Of ``prepared.json``."""

    fingerprint: str


class Node:
    """One attempt's part on this host."""

    def __init__(self, begin: Begin, run: RunDirectory, shared: bool, inbox: Inbox, outbox: Outbox) -> None:
        self._place = begin.place
        self._host = begin.host
        self._run = run
        self._shared = shared
        self._inbox = inbox
        self._say = outbox.say
        self._known = Known(run, begin.place.node)
        self._log = LineReader(run.log, run.log.stat().st_size if run.log.exists() else 0)
        self._told: set[str] = set()
        self._look_at = 0.0
        self._child: Child | None = None
        self._recorder: Recorder | None = None

    def run(self) -> int:
        """The exit code of the launcher, or 1 where it was not started."""
        plan = read_plan(self._run)
        if plan is None:
            self._say(Failure(title="The plan of the run cannot be read", message=f"on {self._host}"))
            return 1
        end_leftovers(self._known.read(), LOCK_SECONDS)
        for folder in (folder_of(self._run, self._place.node), *(() if self._shared else (self._run.errors,))):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700)
        self._say(Ready(pid=os.getpid(), directory=str(self._run.path), shared=self._shared))
        self._recorder = Recorder(plan.layout, self._host, self._say)
        try:
            code = self._prepare() or self._train(plan)
        finally:
            self._recorder.close()
            end_leftovers(self._known.read())
        self._look(now=True)
        if not self._shared:
            shutil.rmtree(self._run.path / SCRATCH, ignore_errors=True)
        return code

    def _prepare(self) -> int:
        """0 when the data is ready here."""
        if self._shared:
            self._say(Prepared(fingerprint=None))
            return 0
        attempt = Attempt.begin(self._run)
        code = self._attend(self._launch("data", data_command(self._run.path), process_environment()))
        if code != 0:
            if not self._inbox.ended:
                self._say(explain_data(self._run, attempt, code))
            return code
        link = read_record(self._run.prepared, _Link)
        self._say(Prepared(fingerprint=link.fingerprint if link else None))
        return 0

    def _train(self, plan: PlanFile) -> int:
        while not self._inbox.go:
            if self._inbox.ended:
                return 1
            self._look()
            time.sleep(TICK_SECONDS)
        folder = str(folder_of(self._run, self._place.node))
        guard = [sys.executable, "-P", "-m", "engine.runs.guard", "--record", folder, "--"]
        devices = self._recorder.devices if self._recorder else ()
        environment = process_environment() | training_environment(plan.layout, devices, self._place)
        command = training_command(plan.layout, self._run.path, guard, self._place)
        code = self._attend(self._launch("training", command, environment))
        end_leftovers(self._known.read())
        return code

    def _launch(self, what: str, command: Sequence[str], environment: dict[str, str]) -> Child:
        self._child = Child(self._run, command, environment)
        self._say(Launched(what=what, pid=self._child.pid, command=self._child.command))
        self._look_at = 0.0
        return self._child

    def _attend(self, child: Child) -> int:
        """Look after ``child`` until it ends, or has to because the run does."""
        kill_at: float | None = None
        while (code := child.poll()) is None:
            self._look()
            now = time.monotonic()
            if kill_at is None and self._inbox.ended:
                child.signal(signal.SIGTERM)
                kill_at = now + AGENT_SECONDS
            elif kill_at is not None and (now >= kill_at or have_all_ended(read_ranks(self._run, self._place.node))):
                child.signal(signal.SIGKILL)
            time.sleep(TICK_SECONDS)
        return code

    def _look(self, now: bool = False) -> None:
        """Pass on the new lines of the log, and once a second what processes and devices do."""
        self._pass_log_on()
        if not now and time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + LOOK_SECONDS
        workers = read_ranks(self._run, self._place.node)
        living = {worker.pid: worker.rank for worker in workers if worker.ended is None}
        if self._child is not None:
            guards = [worker.guard for worker in workers if worker.ended is None]
            self._known.add([self._child.pid, *guards, *living])
        if self._recorder is not None:
            self._recorder.tick(living)
        if self._shared:
            return  # the supervisor sees the files themselves
        for worker in workers:
            if worker.ended is not None and worker.exit_code != 0:
                ended = RankEnded(process=worker, seconds_ago=max(0.0, time.time() - worker.ended))
                self._once(f"ended {worker.rank}", ended)
        for path in sorted(self._run.errors.glob("rank*.json")):
            if (error := read_record(path, WorkerError)) is not None:
                self._once(path.name, RankFailed(error=error))

    def _once(self, key: str, word: RankEnded | RankFailed) -> None:
        if key not in self._told:
            self._told.add(key)
            self._say(word)

    def _pass_log_on(self) -> None:
        if self._shared:
            return
        lines = [line for raw in self._log.read() for line in plain_lines(raw)]
        if lines:
            left_out = max(0, len(lines) - LINES_A_TICK)
            self._say(Log(lines=tuple(lines[left_out:]), left_out=left_out))


def main() -> int:
    """0 when the launcher of the workers ended with 0, and 1 otherwise."""
    os.umask(0o077)
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    inbox, outbox = Inbox(sys.stdin.buffer), Outbox(sys.stdout.fileno())
    signal.signal(signal.SIGTERM, lambda number, frame: inbox.end())
    begin = inbox.begin()
    if begin is None:
        print("this program is started by the supervisor of a run on another machine", file=sys.stderr)
        return 1
    code = _failing(lambda: _take_part(begin, inbox, outbox), outbox.say)
    outbox.say(Exited(exit_code=code))
    outbox.close()
    # The reader of the input cannot be interrupted, and nothing is left to do.
    os._exit(0 if code == 0 else 1)


def _take_part(begin: Begin, inbox: Inbox, outbox: Outbox) -> int:
    for name, value in begin.environment.items():
        os.environ.setdefault(name, value)
    run, shared = settle(begin)
    try:
        with filelock.FileLock(lock_of(run, begin.place.node), timeout=LOCK_SECONDS, mode=0o600):
            return Node(begin, run, shared, inbox, outbox).run()
    except filelock.Timeout:
        hint = "Wait a minute for it to end, then resume the run."
        outbox.say(Failure(title="An earlier attempt still runs", message=f"on {begin.host}, in {run.path}", hint=hint))
        return 1


def _failing(work: Callable[[], int], say: Callable[[Failure], None]) -> int:
    try:
        return work()
    except TraindeckError as error:
        say(Failure(title=error.title, message=error.message, hint=error.hint))
    except OSError as error:
        hint = "Free some space there, or see who may write there."
        say(Failure(title="This host cannot take part", message=str(error), hint=hint, exception=type(error).__name__))
    return 1


if __name__ == "__main__":
    sys.exit(main())
