"""A Slurm of one's own: munged, slurmctld and two nodes on this machine, for as long as a test module lasts."""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "salloc", "scancel", "scontrol", "sinfo", "squeue")
START_SECONDS = 30.0
CONFIGURATION = """
ClusterName=traindeck
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CryptoType=crypto/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=1000
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=1000
PartitionName=main Nodes=node[1-2] Default=YES MaxTime=INFINITE OverSubscribe=FORCE:4 State=UP
"""

KEEPER = """
import os, shutil, signal, sys, time
from pathlib import Path

configuration, folder = sys.argv[1:]
mark = f"SLURM_CONF={configuration}".encode()

def belongs(process):
    try:  # slurmstepd overwrites its environment with a title, and keeps the working directory of slurmd
        return mark in (process / "environ").read_bytes().split(bytes(1)) or os.readlink(process / "cwd") == folder
    except OSError:
        return False

sys.stdin.read()
for _ in range(100):
    found = [int(path.name) for path in Path("/proc").glob("[0-9]*") if int(path.name) != os.getpid() and belongs(path)]
    for pid in found:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    if not found:
        break
    time.sleep(0.05)
shutil.rmtree(folder, ignore_errors=True)
"""
"""Ends every process of this Slurm and of its jobs once its own input ends: no test leaves one behind."""


class Cluster:
    """The daemons, and Slurm's own commands as a test uses them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.configuration = folder / "slurm.conf"
        self.unshared = folder / "unshared"
        """A folder that node2 sees empty, as if it were on another disk."""
        self._daemons: list[subprocess.Popen[bytes]] = []
        # Also where the tests are killed: then the end of its input tells it.
        self._keeper = subprocess.Popen(
            [sys.executable, "-P", "-c", KEEPER, str(self.configuration), str(folder)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def start(self) -> None:
        """Start all daemons and wait until both nodes take jobs. Raises RuntimeError where they do not come up."""
        for inner in ("munge", "state", "spool-node1", "spool-node2", "unshared"):
            (self.folder / inner).mkdir(mode=0o755)
        key = self.folder / "munge/key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        text = CONFIGURATION.format(
            host=socket.gethostname(), folder=self.folder, user=getpass.getuser(), ports=free_ports(3)
        )
        self.configuration.write_text(text)
        self._daemon(
            "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={self.folder}/munge/socket",
            f"--pid-file={self.folder}/munge/pid", f"--log-file={self.folder}/munge/log",
            f"--seed-file={self.folder}/munge/seed",
        )  # fmt: skip
        self._until((self.folder / "munge/socket").exists, "munged")
        self._daemon("slurmctld", "-D", "-i")
        self._daemon("slurmd", "-D", "-N", "node1")
        hide = f'mount -t tmpfs none "{self.unshared}" && exec "$@"'
        apart = ["unshare", "--mount", "--propagation", "private", "sh", "-c", hide, "sh"] if can_unshare() else []
        self._daemon(*apart, "slurmd", "-D", "-N", "node2")
        self._until(lambda: self.ask("sinfo", "-h", "-N", "-o", "%T").split() == ["idle", "idle"], "the nodes")

    def _daemon(self, *command: str) -> None:
        name = next(word for word in command if word in PROGRAMS)
        with (self.folder / f"{name}-{len(self._daemons)}.out").open("wb") as output:
            self._daemons.append(
                subprocess.Popen(
                    [sys.executable, "-P", "-m", "engine.runs.guard", "--", *command],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=self.environment,
                    cwd=self.folder,
                )
            )

    def _until(self, look: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not look():
            if time.monotonic() > deadline or any(daemon.poll() is not None for daemon in self._daemons):
                raise RuntimeError(f"{what} did not come up:\n{self.said()}")
            time.sleep(0.05)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "SLURM_CONF": str(self.configuration)}

    def ask(self, *command: str) -> str:
        """What a command of Slurm's prints; empty where it fails."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=30, check=False
        )  # fmt: skip
        return done.stdout if done.returncode == 0 else ""

    def do(self, *command: str) -> None:
        """Run a command that has to work."""
        subprocess.run(command, env=self.environment, capture_output=True, timeout=30, check=True)

    def is_idle(self) -> bool:
        """Whether nothing is left of any job: a job that was put back is refused where its former self still is."""
        if self.ask("sinfo", "-h", "-N", "-o", "%T").split() != ["idle", "idle"]:
            return False
        return not any(_is_step(path, self.folder) for path in Path("/proc").glob("[0-9]*"))

    def said(self) -> str:
        """The end of what the daemons said."""
        return "\n".join(path.read_text(errors="replace")[-1500:] for path in sorted(self.folder.glob("*.out")))

    def close(self) -> None:
        """End all jobs, the daemons, and whatever is left of either."""
        if self._keeper.stdin is not None:
            self._keeper.stdin.close()
        self._keeper.wait(30)
        for daemon in self._daemons:
            daemon.wait(10)


def _is_step(process: Path, folder: Path) -> bool:
    try:
        return (process / "comm").read_text().strip() == "slurmstepd" and os.readlink(process / "cwd") == str(folder)
    except OSError:  # it has just ended
        return False


def free_ports(count: int) -> list[int]:
    """Ports that nothing listened on a moment ago."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def can_unshare() -> bool:
    """Whether a process here may have mounts of its own."""
    if shutil.which("unshare") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        command = ["unshare", "--mount", "--propagation", "private", "mount", "-t", "tmpfs", "none", folder]
        return subprocess.run(command, capture_output=True, check=False, timeout=10).returncode == 0


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A Slurm with two nodes; skips the test where there is none or it does not start."""
    search = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    missing = [name for name in PROGRAMS if shutil.which(name, path=search) is None]
    if missing:
        pytest.skip(f"Slurm is not installed here ({', '.join(missing)}); on Debian: apt-get install slurm-wlm")
    cluster = Cluster(Path(tempfile.mkdtemp(prefix="slurm-")))
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = search
    try:
        try:
            cluster.start()
        except RuntimeError as error:
            pytest.skip(f"Slurm does not start here: {error}")
        yield cluster
    finally:
        cluster.close()
        os.environ["PATH"] = before
