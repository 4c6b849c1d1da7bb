"""``python -P -m engine.runs.guard [--record FOLDER] -- COMMAND...``: a process that does not outlive its parent.

The chain of a run is supervisor -> torchrun -> workers. Whoever of them is killed with SIGKILL cannot tell the
others, so each asks the kernel to be told (Linux: ``prctl(PR_SET_PDEATHSIG)``). Without ``--record`` this program
then becomes the command. With it, it stays in front of a worker, passes signals on, and notes which process
the worker is and how it ended: torchrun itself tells that only in prose.

Standard library only: it is started once for every worker, before torch is.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import stat
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

ORPHAN_SECONDS = 60
"""What a worker has to write a checkpoint in when its launcher is gone."""
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_PR_SET_PDEATHSIG = 1
_LINUX: bool = sys.platform == "linux"


def die_with_parent(number: signal.Signals, parent: int) -> None:
    """Have the kernel send ``number`` to this process when ``parent`` ends; at once if it has already."""
    if _LINUX:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


class Guard:
    """Runs one command, passes signals on to it, and records its end."""

    def __init__(self, command: list[str], record: Path | None) -> None:
        self._command = command
        self._record_file = record
        self._parent = os.getppid()
        self._child = 0
        self._over = False
        self._facts: dict[str, Any] = {
            "rank": int(os.environ.get("RANK", "0")), "guard": os.getpid(), "host": os.uname().nodename,
        }  # fmt: skip

    def run(self) -> int:
        """The command's wait status."""
        signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
        self._child = os.fork()
        if self._child == 0:
            self._become()
        self._note(pid=self._child)
        for number in PASSED_ON:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._pass_on)
        signal.signal(signal.SIGALRM, self._kill)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        die_with_parent(signal.SIGTERM, self._parent)
        status = self._wait()
        self._over = True
        self._note(
            pid=self._child, exit_code=os.waitstatus_to_exitcode(status), ended=time.time(), log_bytes=_output_size()
        )
        return status

    def _become(self) -> None:
        """In the child: turn into the command, in a group of its own so that signals reach it once, from here."""
        try:
            os.setpgid(0, 0)
            die_with_parent(signal.SIGKILL, self._facts["guard"])
            signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
            os.execvp(self._command[0], self._command)  # noqa: S606 - no shell is wanted
        except OSError as error:
            print(f"{self._command[0]} could not be started: {error}", file=sys.stderr, flush=True)
        os._exit(127)

    def _wait(self) -> int:
        if _LINUX:
            return os.waitpid(self._child, 0)[1]
        while True:  # where the kernel does not tell, look
            found, status = os.waitpid(self._child, os.WNOHANG)
            if found:
                return status
            if os.getppid() != self._parent:
                self._pass_on(signal.SIGTERM, None)
                self._parent = os.getppid()
            time.sleep(0.2)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._tell(number)
        if os.getppid() != self._parent:
            signal.alarm(ORPHAN_SECONDS)

    def _kill(self, number: int, frame: FrameType | None) -> None:
        self._tell(signal.SIGKILL)

    def _tell(self, number: int) -> None:
        """Not once its end is known: its number may be another process's then."""
        if not self._over:
            os.kill(self._child, number)

    def _note(self, **facts: Any) -> None:
        """Write what is known; a disk that is full must not end the training."""
        if self._record_file is None:
            return
        self._facts.update(facts)
        aside = self._record_file.with_name(f".{self._record_file.name}.{os.getpid()}")
        try:
            aside.write_text(json.dumps(self._facts), encoding="utf-8")
            aside.replace(self._record_file)
        except OSError as error:
            print(f"{self._record_file} cannot be written: {error}", file=sys.stderr, flush=True)


def _output_size() -> int | None:
    """How long the log is now: what comes later is not of this process. None where the output is no file."""
    try:
        found = os.fstat(1)
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def main(arguments: list[str]) -> int:
    """Run the command after ``--``; end as it ended."""
    split = arguments.index("--")
    options, command = arguments[:split], arguments[split + 1 :]
    if not options and _LINUX:
        die_with_parent(signal.SIGTERM, os.getppid())
        os.execvp(command[0], command)  # noqa: S606 - no shell is wanted
    record = None
    if options[:1] == ["--record"]:
        folder = Path(options[1])
        record = folder / f"rank{int(os.environ.get('RANK', '0'))}.json"
    code = os.waitstatus_to_exitcode(Guard(command, record).run())
    if code >= 0:
        return code
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the worker has left its core, if one was wanted
    if -code != signal.SIGKILL:  # which has no other effect to take back
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
    return 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
