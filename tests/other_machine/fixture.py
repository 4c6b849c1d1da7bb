"""A second machine played on this one: an ssh server of its own on a loopback address, with its own Traindeck home."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

SSHD = shutil.which("sshd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))
SSH = shutil.which("ssh")
WHY_NOT = (
    "there is no OpenSSH server on this machine (Debian: openssh-server)" if SSHD is None
    else "there is no OpenSSH client on this machine (Debian: openssh-client)" if SSH is None
    else None
)  # fmt: skip
"""Why no second machine can be played; None where it can."""
NAME = "other"
PRIVILEGE_FOLDER = Path("/run/sshd")
"""Without it sshd does not start as root; distributions make it at boot."""

_SERVER = """
Port {port}
ListenAddress {address}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
PubkeyAuthentication yes
ForceCommand {folder}/session
"""
_CLIENT = """
Host {name}
  HostName {address}
  Port {port}
  User {user}
  IdentityFile {folder}/user_key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
  GlobalKnownHostsFile none
  StrictHostKeyChecking yes
  LogLevel ERROR
"""
_SESSION = """#!/bin/sh
. {folder}/environment
exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"
"""


def hiding(folder: Path) -> list[str]:
    """What to put before sshd so that nobody on the other machine sees ``folder`` of this one; empty if it cannot be.

    It takes a mount namespace, which only root may make without further ado.
    """
    command = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs "$0" && exec "$@"', str(folder)]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        done = subprocess.run([*command, "true"], capture_output=True, check=False)
    except FileNotFoundError:
        return []
    return command if done.returncode == 0 else []


@contextmanager
def own_network() -> Iterator[tuple[list[str], str, str]]:
    """A network namespace joined to this one by a cable: what to put before sshd, its address, and ours.

    Raises subprocess.CalledProcessError or FileNotFoundError where that may not be made.
    """
    name = f"traindeck{os.getpid()}"
    ours, theirs = f"td{os.getpid()}a", f"td{os.getpid()}b"
    net = f"10.{200 + os.getpid() % 50}.{os.getpid() // 50 % 250}"
    steps = (
        f"ip netns add {name}",
        f"ip link add {ours} type veth peer name {theirs} netns {name}",
        f"ip address add {net}.1/24 dev {ours}",
        f"ip link set {ours} up",
        f"ip -n {name} address add {net}.2/24 dev {theirs}",
        f"ip -n {name} link set {theirs} up",
        f"ip -n {name} link set lo up",
    )
    try:
        for step in steps:
            subprocess.run(step.split(), check=True, capture_output=True)
        yield ["ip", "netns", "exec", name], f"{net}.2", f"{net}.1"
    finally:
        for step in (f"ip link delete {ours}", f"ip netns delete {name}"):
            with suppress(FileNotFoundError):
                subprocess.run(step.split(), check=False, capture_output=True)


class OtherMachine:
    """``ssh -F config other`` leads to it."""

    def __init__(self, folder: Path, address: str = "127.0.0.2", prefix: Sequence[str] = ()) -> None:
        """``prefix`` is put before sshd: ``ip netns exec NAME``, to play the machine in a network of its own."""
        self.folder = folder
        self.home = folder / "traindeck-home"
        self.address = address
        self.port = _free_port()
        folder.mkdir(parents=True, mode=0o700)
        self.set_environment()
        for key in ("host_key", "user_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True)
        self._write("sshd_config", _SERVER)
        self._write("config", _CLIENT)
        self._write("session", _SESSION).chmod(0o700)
        host_key = (folder / "host_key.pub").read_text()
        (folder / "known_hosts").write_text(f"[{address}]:{self.port} {host_key}")
        if os.getuid() == 0:
            PRIVILEGE_FOLDER.mkdir(mode=0o755, exist_ok=True)
        assert SSHD is not None
        with (folder / "sshd.log").open("wb") as log:
            self._server = subprocess.Popen(
                [*prefix, SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stdin=subprocess.DEVNULL, stderr=log
            )
        self._wait(prefix)

    @property
    def ssh(self) -> str:
        """For ``TRAINDECK_SSH``."""
        return shlex.join(["ssh", "-F", str(self.folder / "config")])

    def set_environment(self, **variables: str) -> None:
        """What a login finds from now on, besides its own Traindeck home."""
        lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
        lines.append(f"export TRAINDECK_HOME={shlex.quote(str(self.home))}")
        (self.folder / "environment").write_text("\n".join(lines) + "\n")

    def pretend(self, package: str, version: str) -> None:
        """Let the machine say that another version of ``package`` is installed on it."""
        site = self.folder / "site"
        info = site / f"{package}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        self.set_environment(PYTHONPATH=str(site))

    def close(self) -> None:
        self._server.terminate()
        self._server.wait()

    def _write(self, name: str, text: str) -> Path:
        path = self.folder / name
        facts = {"folder": self.folder, "address": self.address, "port": self.port, "name": NAME}
        path.write_text(text.format(user=getpass.getuser(), **facts))
        return path

    def _wait(self, prefix: Sequence[str]) -> None:
        deadline = time.monotonic() + 20
        command = [*prefix, sys.executable, "-c", f"import socket; socket.create_connection({self.address, self.port})"]
        while True:
            said = (self.folder / "sshd.log").read_text()
            assert self._server.poll() is None, said
            if "Server listening" in said or subprocess.run(command, capture_output=True, check=False).returncode == 0:
                return
            assert time.monotonic() < deadline, said
            time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def other_machine(folder: Path, address: str = "127.0.0.2", prefix: Sequence[str] = ()) -> Iterator[OtherMachine]:
    """The machine, until the block is left."""
    machine = OtherMachine(folder, address, prefix)
    try:
        yield machine
    finally:
        machine.close()
