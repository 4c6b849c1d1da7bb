"""The supervisor of a run in a Slurm allocation: it trains on the job's nodes, and puts an interrupted job back.

Whom Slurm tells: ``--signal=B:USR1@120`` the process of the batch script, which this supervisor is; a preemption
first the tasks of the step (SIGTERM), and the batch script at the end of the grace time; ``scontrol requeue`` and
``scancel`` both at once. Whoever hears of it first, the workers agree to stop after the same step, write a checkpoint
and leave. What then happens to the job is decided here, when all of them have ended.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence

from engine.contract.errors import RunError, TraindeckError
from engine.contract.events import Failure, Notice
from engine.contract.layout import Layout
from engine.contract.rundir import Command, RunDirectory
from engine.runs import slurm
from engine.runs.child import Child
from engine.runs.command import process_environment
from engine.runs.detach import How
from engine.runs.nodes import Others
from engine.runs.slurmjob import read_job, write_job
from engine.runs.slurmscript import job_of_this_process
from engine.runs.slurmstep import Allocation, plan_on_nodes, read_allocation
from engine.runs.supervisor import Supervisor

STOPPED = frozenset({"stopped", "stopped before training"})


class SlurmSupervisor(Supervisor):
    """One start of the job; ``how`` is ``slurm`` where this is the process of the batch script."""

    def __init__(self, run: RunDirectory, how: How) -> None:
        super().__init__(run, how)
        self._allocation: Allocation | None = None
        self._meeting: tuple[str, int] = ("", 0)
        self._person_stopped = False

    def _attempt(self) -> str | Failure:
        job = job_of_this_process()
        known = read_job(self._run)
        if job is not None and (known is None or known.job != job):
            write_job(self._run, job, submitted=self._how == "slurm")
        try:
            self._allocation = read_allocation()
            if self._allocation is None:
                return Failure(title="This is no Slurm job", message="SLURM_JOB_ID is not set, or names no nodes")
            self._meeting = plan_on_nodes(self._run, self._allocation)
        except TraindeckError as error:
            return Failure(title=error.title, message=error.message, hint=error.hint)
        return super()._attempt()

    def _meet(self, layout: Layout) -> None:
        """Slurm reaches the nodes; they have been looked at."""

    def _record(self, layout: Layout) -> None:
        """Each node records its own devices: this process may be on none of them."""

    def _training(self, layout: Layout, guard: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        assert self._allocation is not None
        command = self._allocation.training_command(layout, self._run.path, guard, *self._meeting)
        return command, process_environment()

    def _accept_stop(self, command: Command, child: Child | Others, begun: bool) -> None:
        self._person_stopped = self._person_stopped or command.id not in self._own_stops
        super()._accept_stop(command, child, begun)

    def _say_end(self, ending: str | Failure) -> None:
        report = self._interrupted(ending)
        if report is None or self._allocation is None:
            super()._say_end(ending)
            return
        job = self._allocation.job
        if isinstance(ending, Failure):
            why = f"{ending.title}: {ending.message}".partition("\n")[0]
            self._reporter.say(Notice(level="warning", message=f"the workers did not stop in order: {why}"))
        is_back = (report.restarts or 0) > self._allocation.restarts
        if not is_back and report.state not in {None, "RUNNING", "SUSPENDED", "PREEMPTED"}:
            is_over = report.state == "COMPLETING"
            why = (
                "was cancelled, or its time was over" if is_over else slurm.ENDINGS.get(report.state or "", "has ended")
            )
            self._enter("finished", f"stopped: its Slurm job {job} {why}")
            return
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what putting the job back sends this process
        self._enter("queued", f"interrupted by Slurm; job {job} is back in the queue")
        try:
            if not is_back:
                slurm.requeue(job)
        except RunError as error:
            self._reporter.say(Notice(level="warning", message=str(error)))
            self._enter("finished", f"stopped: Slurm interrupted job {job} and does not start it again")

    def _interrupted(self, ending: str | Failure) -> slurm.JobReport | None:
        """What Slurm says of the job, if it was Slurm that ended the training; None where it ended for other reasons.

        A run that was started by hand in an allocation is not Slurm's to start again.
        """
        if self._how != "slurm" or self._allocation is None or self._person_stopped:
            return None
        if isinstance(ending, str) and ending not in STOPPED:
            return None
        report = slurm.look(self._allocation.job) or slurm.JobReport(state=None)
        told = bool(self._own_stops) or not isinstance(ending, Failure)
        return report if told or report.state not in {None, "RUNNING"} else None
