"""The system's ``ssh``: its command line, a process behind it, and what its complaints mean.

Names, users, keys and jump hosts are the person's own ``~/.ssh/config``'s business.
"""

from __future__ import annotations

import collections
import queue
import re
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import IO

from engine.contract.errors import Problem
from engine.runs.hosts import SSH, ssh_program
from engine.runs.logfile import plain_lines

CONNECT_SECONDS = 10
OPTIONS = (
    "-T", "-a", "-x",
    "-o", "BatchMode=yes",  # a question would wait for an answer that nobody gives
    "-o", f"ConnectTimeout={CONNECT_SECONDS}",
    "-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3",
    "-o", "ControlMaster=no",  # one that stays behind would hold our pipes open
    "-o", "ClearAllForwardings=yes", "-o", "RemoteCommand=none",
)  # fmt: skip
REFUSED = 255
"""Exit code of ssh itself, as opposed to that of the remote command."""
LAST_WORDS = 20

_CONNECT = "see whether `ssh {host}` works"
_COMPLAINTS: tuple[tuple[str, str, str], ...] = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED|Host key for .* has changed",
        "its host key is not the one that is known",
        "if the machine was installed anew: ssh-keygen -R {host}, then ssh {host}; else somebody may be in between",
    ),
    (
        r"Host key verification failed|No .* host key is known",
        "its host key is not known here",
        "log in once by hand and accept the key: ssh {host}",
    ),
    (
        r"Permission denied|Too many authentication failures|Authentication failed",
        "it lets nobody in without a password: no key of yours is accepted",
        "put your key there: ssh-copy-id {host}; or load it: ssh-add",
    ),
    (
        r"Could not resolve hostname",
        "no machine of this name is known",
        "check the spelling, or give its address in ~/.ssh/config",
    ),
    (r"Connection refused", "no ssh server answers there", "start sshd on it, or give its port in ~/.ssh/config"),
    (
        r"timed out|did not respond|not responding",
        "it does not answer",
        "see whether it is switched on and reachable: ssh {host}",
    ),
    (r"No route to host|Network is unreachable", "there is no way to it in the network", _CONNECT),
    (r"[Bb]ad (configuration|owner)|command-line line|Unsupported option", "ssh does not take its configuration", ""),
    (r"Connection (closed|reset)|kex_exchange_identification", "it closed the connection", _CONNECT),
)


def ssh_command(host: str, remote: Sequence[str]) -> list[str]:
    """What runs ``remote`` on ``host``. The far end is given a shell's command line, so that it is quoted for one."""
    return [*ssh_program(), *OPTIONS, "--", host, shlex.join(remote)]


def unreachable(host: str, exit_code: int, said: Sequence[str]) -> Problem:
    """What a failed connection means, from the words of ssh."""
    text = "\n".join(said)
    for pattern, message, hint in _COMPLAINTS:
        if re.search(pattern, text):
            last = next(line for line in reversed(said) if re.search(pattern, line))
            return host_problem(host, f"{message} ({last.strip()})", hint.format(host=host))
    words = said[-1].strip() if said else f"ssh ended with exit code {exit_code} and said nothing"
    return host_problem(host, f"it cannot be used by ssh: {words}", _CONNECT.format(host=host))


def host_problem(host: str, message: str, hint: str = "") -> Problem:
    """A problem of one host, that names it."""
    return Problem(field="layout.hosts", message=f"{host}: {message}", hint=hint)


class Connection:
    """A process on another host: lines go to it, its own lines and its complaints come back, without waiting.

    Raises TraindeckError or OSError where ssh itself cannot be started. The far process sees the end of its input
    when this process ends, in whatever way.
    """

    def __init__(self, host: str, remote: Sequence[str], complaint: Callable[[str], None] | None = None) -> None:
        self.host = host
        self.command = tuple(ssh_command(host, remote))
        self.complaints: collections.deque[str] = collections.deque(maxlen=LAST_WORDS)
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._input = self._process.stdin
        self._readers = (
            threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True),
            threading.Thread(target=self._listen, args=(self._process.stderr, complaint), daemon=True),
        )
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                self._lines.put(line)

    def _listen(self, stream: IO[bytes], complaint: Callable[[str], None] | None) -> None:
        with stream:
            for raw in stream:
                for line in plain_lines(raw):
                    self.complaints.append(line)
                    if complaint is not None:
                        complaint(line)

    def lines(self) -> Iterator[bytes]:
        """The lines that have come since the last call."""
        while not self._lines.empty():
            yield self._lines.get()

    def send(self, line: bytes) -> bool:
        """Send one line; False where nobody reads it any more."""
        try:
            self._input.write(line + b"\n")
            self._input.flush()
        except (OSError, ValueError):
            return False
        return True

    def hang_up(self) -> None:
        """End the input of the far process."""
        try:
            self._input.close()
        except OSError:
            return  # what was not sent yet is of no use to a process that is gone

    def poll(self) -> int | None:
        """The exit code once the process has ended and all that it said is there to be read; None before."""
        code = self._process.poll()
        if code is not None and any(reader.is_alive() for reader in self._readers):
            for reader in self._readers:
                reader.join(0.2)  # a grandchild may hold the pipes: then what has come must do
        return code

    def kill(self) -> None:
        """End ssh; the far process sees its input end."""
        self.hang_up()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


def missing_program(error: OSError) -> Problem:
    """What it means that ssh cannot be started at all."""
    hint = f"install the OpenSSH client, or name another in {SSH}"
    return Problem(field="layout.hosts", message=f"ssh cannot be started here: {error}", hint=hint)
