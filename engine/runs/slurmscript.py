"""The batch script of a run, and its submission.

The script's process is the supervisor itself: what Slurm signals to the batch script (``--signal=B:USR1@120``, and
SIGTERM at the end of a preemption's grace time) reaches it without a shell in between.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence

from engine.contract.durable import write_durably
from engine.contract.errors import Problem, RunError
from engine.contract.machine import Device, Machine
from engine.contract.rundir import RunDirectory
from engine.runs.command import PYTHON, process_environment
from engine.runs.home import VARIABLE
from engine.runs.slurmjob import SCRIPT, submit

WARNING_SECONDS = 120
"""How long before its time limit a job is told: what a checkpoint may take."""
NAMED = ("nodes", "partition", "time", "gpus-per-node", "gres", "cpus-per-task", "mem", "account", "qos")
"""Options that people usually need, for messages."""
_OWN = {
    "array": "a run is one job", "chdir": "it is the run's folder", "error": "it is the run's log",
    "job-name": "it is made of the run's name", "ntasks": "there is one task for each node",
    "ntasks-per-node": "there is one task for each node", "open-mode": "the run's log is appended to",
    "output": "it is the run's log", "parsable": "it is used already", "wrap": "the script is written by Traindeck",
}  # fmt: skip
_KEY = re.compile(r"[a-z][a-z0-9-]*")
_CARRIED = ("PYTHONPATH", "PYTHONSAFEPATH", "PYTHONUNBUFFERED", VARIABLE)
"""What the script sets even where a site keeps the environment from its jobs (``--export=NONE``)."""

Options = dict[str, str | None]
"""Options of sbatch without their dashes; None for those without a value."""


def read_options(given: Sequence[str]) -> Options | list[Problem]:
    """``KEY=VALUE`` or ``KEY``, each as sbatch takes it after two dashes; or everything that is wrong with them."""
    options: Options = {}
    problems = []
    for text in given:
        key, equals, value = text.strip().removeprefix("--").partition("=")
        if not _KEY.fullmatch(key):
            usual = ", ".join(NAMED)
            hint = f"write KEY=VALUE with a long option of sbatch, for example {usual}"
            problems.append(Problem(field="--sbatch", message=f"{text!r} is no option of sbatch", hint=hint))
        elif key in _OWN:
            problems.append(Problem(field="--sbatch", message=f"{key} cannot be set: {_OWN[key]}", hint="leave it out"))
        elif any(not character.isprintable() for character in value) or (equals and not value):
            problems.append(Problem(field="--sbatch", message=f"{text!r} has no usable value", hint=f"{key}=VALUE"))
        else:
            options[key] = value if equals else None
    return problems or options


def node_count(options: Options) -> int:
    """The nodes that are asked for: 1 unless ``nodes`` says more; the least of a range."""
    number = (options.get("nodes") or "1").partition("-")[0]
    return int(number) if number.isdecimal() and int(number) > 0 else 1


def expected_machine(options: Options, here: Machine) -> Machine:
    """A node as far as the options tell: its GPUs, its cores. Nothing is known of their memory.

    Where the cores are not told, those of ``here`` stand in.
    """
    cores = _number(options.get("cpus-per-task")) or here.cpu_cores
    gpus = _gpus(options)
    devices = tuple(Device(index=index, kind="cuda") for index in range(gpus))
    return Machine(
        host="a node of Slurm", devices=(*devices, Device(index=0, kind="cpu", slots=cores)), cpu_cores=cores
    )  # fmt: skip


def _gpus(options: Options) -> int:
    """GPUs of one node; ``gpus-per-node=a100:4``, ``gres=gpu:4,license:1`` and ``gpus=8`` over all nodes."""
    per_node = options.get("gpus-per-node") or next(
        (part for part in (options.get("gres") or "").split(",") if part.partition(":")[0] == "gpu"), None
    )
    if per_node:
        return sum(_number(part) or 1 for part in per_node.split(","))
    return (_number(options.get("gpus")) or 0) // node_count(options)


def _number(text: str | None) -> int | None:
    """The number at the end of ``4``, ``a100:4`` or ``gpu:a100:4``."""
    last = (text or "").rpartition(":")[2]
    return int(last) if last.isdecimal() else None


def script_text(folder: str, name: str, options: Options, environment: Mapping[str, str]) -> str:
    """The batch script of the run in ``folder``."""
    own: Options = {
        "job-name": f"traindeck-{name}", "chdir": folder, "output": "engine.log", "open-mode": "append", "nodes": "1",
        "ntasks-per-node": "1", "requeue": None, "signal": f"B:USR1@{WARNING_SECONDS}",
    }  # fmt: skip
    if "no-requeue" in options:
        del own["requeue"]
    lines = [
        f"#SBATCH --{key}" + ("" if value is None else f"={shlex.quote(value)}")
        for key, value in (own | options).items()
    ]
    exports = [f"export {key}={shlex.quote(environment[key])}" for key in _CARRIED if key in environment]
    command = [sys.executable, PYTHON, "-m", "engine.runs.supervisor", "--run-dir", folder, "--foreground"]
    return "\n".join(
        [
            "#!/bin/sh",
            *lines,
            "",
            "umask 077",
            *exports,
            "# The supervisor takes the place of this shell: it gets the signals of the job, and puts the job back",
            "# into the queue once a checkpoint is written.",
            f"exec {shlex.join(command)}",
            "",
        ]
    )


def submission(folder: str) -> list[str]:
    """The command that submits the script of the run in ``folder``."""
    return ["sbatch", "--parsable", f"{folder}/{SCRIPT}"]


def write_script(run: RunDirectory, name: str, options: Options) -> None:
    """Write ``job.sh`` into the run's folder. Raises RunError where it cannot be written."""
    text = script_text(str(run.path), name, options, process_environment())
    try:
        write_durably(run.path / SCRIPT, text.encode("utf-8"))
    except OSError as error:
        message = f"{run.path / SCRIPT} cannot be written: {error.strerror or error}"
        raise RunError("The run was not submitted", message) from None


def has_script(run: RunDirectory) -> bool:
    """Whether a run is one that Slurm starts."""
    return (run.path / SCRIPT).is_file()


def require_slurm() -> None:
    """Raise RunError where no job can be submitted from here."""
    if shutil.which("sbatch") is None:
        raise RunError(
            "The run was not submitted",
            "the command sbatch is not here: Slurm is not installed",
            "Run it on a machine from which jobs are submitted, such as the login node of the cluster.",
        )


def submit_run(run: RunDirectory) -> int:
    """Submit the script of a run, a new one or one that has ended; the id of the job. Raises RunError."""
    require_slurm()
    return submit(run, submission(str(run.path)))


def job_of_this_process(environment: Mapping[str, str] = os.environ) -> int | None:
    """The Slurm job in whose allocation this process runs; None outside of one."""
    job = environment.get("SLURM_JOB_ID", "")
    return int(job) if job.isdecimal() and environment.get("SLURM_JOB_NODELIST") else None
