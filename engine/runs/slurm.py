"""Slurm's own commands: submit, look, cancel, requeue, and the names of nodes.

Nothing of Slurm is linked or configured here: ``sbatch``, ``scontrol``, ``scancel`` and ``sacct`` find their
controller by themselves (``SLURM_CONF``, /etc/slurm), and what they object to is shown in their words.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence

import msgspec

from engine.contract.errors import RunError

ANSWER_SECONDS = 30.0
"""A busy controller takes its time; Slurm's own commands give up after about as long (MessageTimeout)."""
LOOK_SECONDS = 5.0
"""For questions that a person waits for with a list of runs; without an answer the state of a job is unknown."""
WAITING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"})
"""States of a job none of whose processes has begun."""
WORKING = frozenset({"RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING", "COMPLETING"})
"""States of a job that holds its nodes."""
ENDINGS = {
    "BOOT_FAIL": "could not start: a node did not boot",
    "CANCELLED": "was cancelled",
    "COMPLETED": "has ended",
    "DEADLINE": "passed its deadline",
    "FAILED": "failed",
    "NODE_FAIL": "ended: one of its nodes failed",
    "OUT_OF_MEMORY": "was ended: it used more memory than it had asked for",
    "PREEMPTED": "was preempted and not put back into the queue",
    "REVOKED": "was revoked",
    "TIMEOUT": "was ended at its time limit",
}


class JobReport(msgspec.Struct, frozen=True, kw_only=True):
    """What Slurm says of a job."""

    state: str | None
    """``PENDING``, ``RUNNING`` ... as in squeue(1); None where Slurm does not know the job (any more)."""
    reason: str | None = None
    """Why it waits, or failed: one word of Slurm's such as ``Resources``; None where there is none."""
    restarts: int | None = None
    """How often it was put back into the queue."""

    @property
    def waits(self) -> bool:
        return self.state in WAITING

    @property
    def works(self) -> bool:
        return self.state in WORKING


def submit(command: Sequence[str]) -> int:
    """Run an ``sbatch --parsable``; the id of the job. Raises RunError with what sbatch objects to."""
    said = _run(command, "The run was not submitted")
    number = said.strip().splitlines()[-1].partition(";")[0] if said.strip() else ""
    if not number.isdecimal():
        raise RunError("The run was not submitted", f"sbatch answered {said.strip()!r}, and not with the id of a job")
    return int(number)


def look(job: int) -> JobReport | None:
    """What Slurm says of a job; None where Slurm cannot be asked from here or does not answer."""
    try:
        done = _done(["scontrol", "show", "job", str(job), "--oneliner"], LOOK_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode == 0:
        return parse_job(done.stdout)
    if "Invalid job id" not in done.stdout + done.stderr:
        return None
    return JobReport(state=_accounted(job))


def parse_job(text: str) -> JobReport | None:
    """The line that ``scontrol show job --oneliner`` prints, as far as it matters here."""
    fields = dict(re.findall(r"(?<!\S)(JobState|Reason|Restarts)=(\S+)", text))
    if "JobState" not in fields:
        return None
    reason, restarts = fields.get("Reason"), fields.get("Restarts", "")
    return JobReport(
        state=fields["JobState"],
        reason=None if reason in {None, "None", "(null)"} else reason,
        restarts=int(restarts) if restarts.isdecimal() else None,
    )


def _accounted(job: int) -> str | None:
    """The state of a job that the controller has forgotten, from the accounting; None where that knows nothing."""
    try:
        command = ["sacct", "--noheader", "--parsable2", "--allocations", "--jobs", str(job), "--format", "State"]
        done = _done(command, LOOK_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    words = done.stdout.split()  # "CANCELLED by 1000"
    return words[0] if done.returncode == 0 and words else None


def cancel_waiting(job: int) -> bool:
    """Cancel a job unless it has begun; whether it will never begin. Raises RunError where Slurm refuses."""
    _run(["scancel", "--state=PENDING", str(job)], "The Slurm job could not be cancelled")
    report = look(job)
    return report is not None and not report.waits and not report.works


def requeue(job: int) -> None:
    """Put a job back into the queue; its processes are ended. Raises RunError where Slurm refuses."""
    _run(["scontrol", "requeue", str(job)], "The Slurm job could not be put back into the queue")


def host_names(nodes: str) -> tuple[str, ...]:
    """The names in a list of Slurm's, such as ``node[1-3,7]``. Raises RunError."""
    said = _run(["scontrol", "show", "hostnames", nodes], "The nodes of the Slurm job are not known")
    return tuple(said.split())


def node_address(node: str) -> str:
    """The address under which Slurm itself reaches a node: its name, unless the configuration says otherwise."""
    try:
        done = _done(["scontrol", "show", "node", node, "--oneliner"])
    except (OSError, subprocess.TimeoutExpired):
        return node
    found = re.search(r"(?<!\S)NodeAddr=(\S+)", done.stdout)
    return found[1] if done.returncode == 0 and found else node


def ending_words(job: int, report: JobReport) -> str:
    """How a job ended, for a person."""
    if report.state is None:
        return f"Slurm does not know its job {job} any more"
    return f"its Slurm job {job} {ENDINGS.get(report.state, f'is {report.state}')}"


def _run(command: Sequence[str], title: str) -> str:
    """Standard output of a command of Slurm's. Raises RunError with its own words where it fails."""
    if shutil.which(command[0]) is None:
        hint = "Run it on a machine from which jobs are submitted, such as the login node of the cluster."
        raise RunError(title, f"the command {command[0]} is not here: Slurm is not installed", hint)
    try:
        done = _done(command)
    except subprocess.TimeoutExpired:
        raise RunError(title, f"{command[0]} did not answer within {ANSWER_SECONDS:.0f} seconds") from None
    except OSError as error:
        raise RunError(title, f"{command[0]} could not be started: {error.strerror or error}") from None
    if done.returncode:
        words = (done.stderr or done.stdout).strip()
        raise RunError(title, words or f"{command[0]} ended with exit code {done.returncode} and said nothing")
    return done.stdout


def _done(command: Sequence[str], seconds: float = ANSWER_SECONDS) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(command), stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
        timeout=seconds, check=False,
    )  # fmt: skip
