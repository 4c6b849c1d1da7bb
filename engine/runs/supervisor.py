"""``python -P -m engine.runs.supervisor --run-dir DIR``: owns the life of a run, from first event to last.

It prepares the data and trains, each in processes of its own, samples the devices, ends what does not end by
itself, and writes how it ended. It does no work that could fail with the training: no torch, little memory, a
look at a few files four times a second.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import filelock
import msgspec

from engine.contract.durable import write_durably
from engine.contract.errors import TraindeckError
from engine.contract.events import CommandDone, Detached, Ended, Failure, Launched, Notice, Started, State, Train
from engine.contract.journal import Journal, LineReader
from engine.contract.layout import Layout
from engine.contract.plan import PlanFile, read_plan
from engine.contract.records import decode_record
from engine.contract.rundir import Command, RunDirectory
from engine.contract.specfile import read_spec
from engine.contract.states import RunStateName
from engine.hardware.host import host_name, identity
from engine.runs.child import Child
from engine.runs.command import SCRATCH, data_command, process_environment, training_command, training_environment
from engine.runs.detach import How, warning
from engine.runs.failure import Attempt, explain_data, explain_training
from engine.runs.hosts import other_hosts
from engine.runs.inbox import append_command
from engine.runs.launch import ALREADY_SUPERVISED
from engine.runs.nodes import LOST_SECONDS, SETTLE_SECONDS, Nodes, Others
from engine.runs.preflight import require_hosts
from engine.runs.processes import Known, end_leftovers, folder_of, have_all_ended, read_ranks
from engine.runs.reporter import Reporter
from engine.runs.scan import backwards
from engine.runs.slurmscript import job_of_this_process
from engine.runs.stopping import GRACE_SECONDS, Stop
from engine.runs.telemetry import Recorder, journal_of

TICK_SECONDS = 0.25
LOOK_SECONDS = 1.0
"""How often new worker processes are looked for."""
LOCK_SECONDS = 2.0
"""How long a supervisor that has said how its run ended may take to leave."""
JOB_LOCK_SECONDS = 60.0
"""The same for the job of a batch system, which nobody starts again: who submits or cancels it has the lock, too."""


class Supervisor:
    """One attempt at a run: everything between two ends."""

    def __init__(self, run: RunDirectory, how: How) -> None:
        self._run = run
        self._how: How = how
        self._reporter = Reporter(run.events_of("supervisor"))
        self._commands = LineReader(run.commands, run.commands.stat().st_size if run.commands.exists() else 0)
        self._recorder: Recorder | None = None
        self._telemetry: Journal | None = None
        self._nodes = Nodes(run)
        self._known = Known(run)
        self._ranks: dict[int, int] = {}
        self._child_pid = 0
        self._look_at = 0.0
        self._stop: Stop | None = None
        self._giving_up: Stop | None = None
        self._signalled = False
        self._own_stops: set[str] = set()
        """Ids of the requests that were made here, because of a signal."""
        self.failed = False
        """Whether the run has failed."""

    def supervise(self, ready: Callable[[], None]) -> None:
        """Run the attempt to its end, and say how it ended. ``ready`` is called after the first event."""
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._note_signal)
        who = identity(os.getpid())
        write_durably(self._run.supervisor, msgspec.json.encode(who))
        self._reporter.say(Detached(how=self._how, pid=os.getpid(), host=host_name()))
        self._enter("starting")
        ready()
        if message := warning(self._how):
            self._reporter.say(Notice(level="warning", message=message))
        try:
            ending = self._attempt()
        except Exception as error:
            traceback.print_exc()
            ending = _defect(self._run, error)
        self._conclude(ending)

    def _note_signal(self, number: int, frame: object) -> None:
        self._signalled = True

    def _enter(self, state: RunStateName, reason: str = "") -> None:
        self._reporter.say(State(state=state, reason=reason))

    def _conclude(self, ending: str | Failure) -> None:
        self._nodes.close()
        if self._recorder is not None:
            self._recorder.close()
        if self._telemetry is not None:
            self._telemetry.close()
        end_leftovers(self._known.read())
        shutil.rmtree(self._run.path / SCRATCH, ignore_errors=True)
        self._say_end(ending)
        self._reporter.close()

    def _say_end(self, ending: str | Failure) -> None:
        if isinstance(ending, str):
            self._enter("finished", ending)
        else:
            first_line = ending.message.partition("\n")[0]
            self._enter("failed", f"{ending.title}: {first_line}" if first_line else ending.title)
            self._reporter.say(ending)
            self.failed = True

    def _attempt(self) -> str | Failure:
        """The reason why the run finished, or why it failed."""
        if count := end_leftovers(self._known.read()):
            message = f"ended {count} processes that an earlier attempt had left over"
            self._reporter.say(Notice(level="warning", message=message))
        for folder in self._run.path.glob("processes-*"):
            shutil.rmtree(folder, ignore_errors=True)
        for folder in (folder_of(self._run), self._run.errors):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700)
        plan = read_plan(self._run)
        if plan is None:
            return Failure(
                title="The plan of the run cannot be read",
                message=f"{self._run.plan} is missing or damaged",
                hint=f"Start a new run with the same spec: traindeck train {self._run.spec}",
            )
        try:
            self._meet(plan.layout)
        except TraindeckError as error:
            return Failure(title=error.title, message=error.message, hint=error.hint)
        self._record(plan.layout)
        return self._prepare() or self._train(plan)

    def _record(self, layout: Layout) -> None:
        """Open the record of this host's devices."""
        self._telemetry = journal_of(self._run, host_name())
        self._recorder = Recorder(layout, host_name(), self._telemetry.write)

    def _meet(self, layout: Layout) -> None:
        """See that all hosts of the run can train together, and start their nodes. Raises TraindeckError."""
        found = require_hosts(layout, read_spec(self._run.spec)) if other_hosts(layout) else None
        if found is None:
            return
        self._reporter.say(*(Notice(level="warning", message=odd.message) for odd in found.warnings))
        self._nodes.start(layout, found, self._reporter.say)

    def _prepare(self) -> str | Failure | None:
        """Prepare the data; None when it is ready."""
        attempt = Attempt.begin(self._run)
        child = self._launch("data", data_command(self._run.path), process_environment())
        code = self._attend(child, lambda: False)
        if code == 0:
            self._attend(Others(self._nodes), lambda: False)
        if self._stop is not None:
            return "stopped before training"
        if code != 0:
            return self._nodes.failure or explain_data(self._run, attempt, code)
        return self._nodes.failure or self._nodes.launcher_failure or self._nodes.train()

    def _train(self, plan: PlanFile) -> str | Failure:
        rank0 = self._run.events_of("rank0")
        attempt = Attempt.begin(self._run)
        before = rank0.stat().st_size if rank0.exists() else 0
        launched = time.time()
        guard = [sys.executable, "-P", "-m", "engine.runs.guard", "--record", str(folder_of(self._run)), "--"]
        child = self._launch("training", *self._training(plan.layout, guard))
        code = self._attend(child, lambda: rank0.exists() and rank0.stat().st_size > before)
        self._nodes.end(SETTLE_SECONDS)
        end_leftovers(self._known.read())  # workers whose launcher was killed may still write a checkpoint
        ended = _ended_since(rank0, launched)
        if ended is not None:
            if self._nodes.failure is not None and self._stop is None and ended.reason == "stopped":
                return self._nodes.failure  # its end made the others stop
            if code != 0:
                asked = self._stop is not None or ended.reason != "stopped"
                why = "the training had ended as planned" if asked else "nobody asked the run to stop"
                message = f"{why}, and its processes ended with exit code {code}: see the log"
                self._reporter.say(Notice(level="warning", message=message))
            return ended.reason
        if self._stop is None:
            return self._nodes.failure or explain_training(self._run, attempt, code, self._nodes.launcher_failure)
        if rank0.exists() and rank0.stat().st_size > before:
            message = "the workers did not stop by themselves and were ended: steps since the last checkpoint are lost"
            self._reporter.say(Notice(level="warning", message=message))
            return "stopped"
        return "stopped before training"

    def _training(self, layout: Layout, guard: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        """The command that starts the workers, and its environment."""
        devices = self._recorder.devices if self._recorder else ()
        environment = process_environment() | training_environment(layout, devices, self._nodes.place)
        return training_command(layout, self._run.path, guard, self._nodes.place), environment

    def _launch(self, what: str, command: Sequence[str], environment: dict[str, str]) -> Child:
        child = Child(self._run, command, environment)
        self._reporter.say(Launched(what=what, pid=child.pid, command=child.command))
        self._child_pid = child.pid
        self._look_at = 0.0
        return child

    def _attend(self, child: Child | Others, begun: Callable[[], bool]) -> int:
        """Look after ``child`` until it ends; its exit code. ``begun``: whether rank 0 answers requests by now."""
        try:
            while (code := child.poll()) is None:
                self._reporter.flush()
                self._look()
                self._serve(child, begun)
                self._follow(child)
                for stop in (self._stop, self._giving_up):
                    if stop is not None:
                        stop.press()
                time.sleep(TICK_SECONDS)
        except BaseException:
            child.signal(signal.SIGTERM)
            child.wait(30.0)
            child.signal(signal.SIGKILL)
            raise
        return code

    def _follow(self, child: Child | Others) -> None:
        """Take in what the other hosts say. Where one cannot go on, nor can the others."""
        self._nodes.tick()
        if self._giving_up is not None:
            if have_all_ended(read_ranks(self._run)):
                child.signal(signal.SIGKILL)
        elif self._nodes.ended_badly:
            # Without a host nobody can go on; one whose launcher only failed may say why in a moment.
            self._giving_up = Stop(self._run, child, LOST_SECONDS if self._nodes.failure else SETTLE_SECONDS)

    def _serve(self, child: Child | Others, begun: Callable[[], bool]) -> None:
        """See to the requests that have come: to a stop always, to others only where no worker does."""
        if self._signalled:
            self._signalled = False
            self._own_stops.add(append_command(self._run, "stop").id)
        for line in self._commands.read():
            command = decode_record(line, Command)
            if command is None:
                continue  # nothing that could be acknowledged
            if command.action == "stop":
                self._accept_stop(command, child, begun())
            elif not begun() and not self._ranks:
                message = "training has not begun yet"
                self._reporter.say(CommandDone(id=command.id, action=command.action, accepted=False, message=message))

    def _accept_stop(self, command: Command, child: Child | Others, begun: bool) -> None:
        if self._stop is None:
            self._stop = Stop(self._run, child, GRACE_SECONDS if begun else 0.0)
            if not begun:
                self._enter("stopping")
        if not begun:
            self._reporter.say(CommandDone(id=command.id, action="stop", accepted=True))

    def _look(self) -> None:
        """Once a second: which processes there are, and what the devices do."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_SECONDS
        try:
            workers = [worker for worker in read_ranks(self._run) if worker.ended is None and worker.is_here]
            self._ranks = {worker.pid: worker.rank for worker in workers}
            self._known.add(
                [self._child_pid, *self._nodes.pids, *(pid for worker in workers for pid in (worker.guard, worker.pid))]
            )
            if self._recorder is not None:
                self._recorder.tick(self._ranks)
        except OSError as error:  # a full disk: the curves of the devices have a gap
            print(f"the supervisor cannot write: {error}", file=sys.stderr, flush=True)


def _defect(run: RunDirectory, error: Exception) -> Failure:
    """How a run ends whose supervisor cannot go on."""
    hint = "This is a defect of Traindeck: the log has the traceback. The last checkpoint is there."
    if isinstance(error, OSError):
        hint = f"Free some space, or see who may write there; then: traindeck resume {run.id}"
    return Failure(
        title="The run could not be supervised",
        message=str(error) or type(error).__name__,
        hint=hint,
        exception=type(error).__name__,
    )


def _ended_since(rank0: Path, launched: float) -> Ended | None:
    """The word of rank 0 that training ended as planned; it comes after the last step."""
    for event in backwards(rank0):
        if isinstance(event, Ended):
            return event if event.time >= launched else None
        if isinstance(event, Train | Started) or event.time < launched:
            return None
    return None


def main() -> int:
    """Detach: the process that was started leaves when the one that stays has written its first event."""
    parser = argparse.ArgumentParser(prog="python -m engine.runs.supervisor", description="Supervise a run")
    parser.add_argument("--run-dir", type=Path, required=True, help="directory of the run")
    parser.add_argument("--detached", choices=("setsid", "systemd-run"), default="setsid", help="how it was started")
    parser.add_argument(
        "--foreground", action="store_true", help="stay this process: the job of a batch system, told by its signals"
    )
    arguments = parser.parse_args()
    run = RunDirectory(arguments.run_dir.absolute())
    if arguments.foreground:
        return _supervise(run, "setsid" if job_of_this_process() is None else "slurm", _complain)
    told, tell = os.pipe()
    if os.fork():
        os.close(tell)
        answer = os.read(told, 1)
        return answer[0] if answer else 1
    os.close(told)

    def say(code: int) -> None:
        os.write(tell, bytes([code]))
        os.close(tell)

    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    return _supervise(run, arguments.detached, say)


def _complain(code: int) -> None:
    """In the foreground: why this process ends at once."""
    if code == ALREADY_SUPERVISED:
        print("the run has a supervisor already: another process holds supervisor.lock", file=sys.stderr, flush=True)


def _supervise(run: RunDirectory, how: How, say: Callable[[int], None]) -> int:
    """Supervise the run in this process; its exit code: 1 where the run failed, so that a batch system knows, too.

    ``say`` hears 0 once the first event is written.
    """
    os.umask(0o077)
    kind: type[Supervisor] = Supervisor
    if job_of_this_process() is not None:
        from engine.runs.slurmsupervisor import SlurmSupervisor  # noqa: PLC0415 - it is made of this one

        kind = SlurmSupervisor
    try:
        patience = JOB_LOCK_SECONDS if how == "slurm" else LOCK_SECONDS
        with filelock.FileLock(run.path / "supervisor.lock", timeout=patience, mode=0o600):
            supervisor = kind(run, how)
            supervisor.supervise(ready=lambda: say(0))
    except filelock.Timeout:
        say(ALREADY_SUPERVISED)
        return ALREADY_SUPERVISED
    except OSError as error:
        print(f"the run directory cannot be written: {error}", file=sys.stderr, flush=True)
        return 1
    return int(supervisor.failed)


if __name__ == "__main__":
    sys.exit(main())
