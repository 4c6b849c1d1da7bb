"""Asking many hosts at once what they are like."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Sequence

import msgspec

from engine.contract.errors import Problem
from engine.contract.records import decode_record
from engine.runs.hosts import PYTHON, pythons_of, was_told
from engine.runs.probe import Facts, Hello, Question
from engine.runs.ssh import REFUSED, Connection, host_problem, missing_program, unreachable

ANSWER_SECONDS = 30.0
"""Within which a host must have let us in. One that does not answer at all costs ssh's own ``ConnectTimeout``."""
FACTS_SECONDS = 45.0
"""Within which it must have told everything: a first import over a network disk is slow."""
POLL_SECONDS = 0.02
CONNECTED = b"traindeck-connected"
NOT_FOUND = 78
"""Exit code of the script below where no Python has Traindeck (sysexits.h: EX_CONFIG)."""

FIND_PYTHON = f"""
printf '%s\\n' {CONNECTED.decode()}
only=$1; shift
if [ "$only" = 0 ]; then
  traindeck=$(command -v traindeck || command -v "$HOME/.local/bin/traindeck") &&
    set -- "$@" "$(sed -n '1s/^#!//p' "$traindeck")"
  set -- "$@" python3
fi
for python; do
  [ -n "$python" ] || continue
  why=$("$python" -P -c 'import engine.runs.probe' 2>&1) && exec "$python" -P -m engine.runs.probe
  printf '%s: %s\\n' "$python" "$(printf '%s' "$why" | tail -n 1)" >&2
done
exit {NOT_FOUND}
"""
"""For the far side's /bin/sh: become the first Python that has Traindeck; the words of those that have not."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came back from one host."""

    hello: Hello | None = None
    facts: Facts | None = None
    clock_skew_seconds: float | None = None
    """Its clock less ours; positive where it is ahead."""
    problem: Problem | None = None
    """Why there is no answer, or not all of it."""


class _Asked:
    """One host that is being asked."""

    def __init__(self, host: str, question: Question) -> None:
        self._host = host
        self._began = time.monotonic()
        self._connected = False
        self._hello: Hello | None = None
        self._asked_at = 0.0
        self._line: Connection | None = None
        self.answer: Answer | None = None
        try:
            command = ["/bin/sh", "-c", FIND_PYTHON, "sh", str(int(was_told(host))), *pythons_of(host)]
            self._line = Connection(host, command)
        except OSError as error:
            self.answer = Answer(problem=missing_program(error))
            return
        self._line.send(msgspec.json.encode(question))

    def look(self) -> None:
        """Take in what has come."""
        if self.answer is not None or self._line is None:
            return
        code = self._line.poll()
        for line in self._line.lines():
            self._hear(self._line, line.strip())
        if self.answer is None and code is not None:
            self.answer = Answer(hello=self._hello, problem=self._ended(self._line, code))
        waited = time.monotonic() - self._began
        if self.answer is None and waited > (FACTS_SECONDS if self._connected else ANSWER_SECONDS):
            what = "it lets us in, but tells nothing" if self._connected else "it does not answer"
            hint = f"see whether `ssh {self._host}` works, and what that machine is busy with"
            self.answer = Answer(problem=host_problem(self._host, f"{what} within {waited:.0f} seconds", hint))

    def close(self) -> None:
        if self._line is not None:
            self._line.kill()

    def _hear(self, line: Connection, text: bytes) -> None:
        if text == CONNECTED:  # lines before it are those of the shell's own start-up files
            self._connected = True
        elif not self._connected or self.answer is not None:
            return
        elif self._hello is None:
            self._hello = decode_record(text, Hello)
            self._asked_at = time.time()
            line.send(b"")
        elif (found := decode_record(text, Facts)) is not None:
            self.answer = Answer(hello=self._hello, facts=found, clock_skew_seconds=found.time - self._asked_at)

    def _ended(self, line: Connection, code: int) -> Problem:
        said = list(line.complaints)
        if code == NOT_FOUND:
            tried = "; ".join(said) or "no Python was found"
            hint = f"install the same version there, or say where it is: {PYTHON}={self._host}=/path/to/python"
            return host_problem(self._host, f"Traindeck is not installed there ({tried})", hint)
        if code == REFUSED or not self._connected:
            return unreachable(self._host, code, said)
        last = said[-1] if said else "it said nothing"
        return host_problem(self._host, f"its probe ended with exit code {code}: {last}", "update Traindeck there")


def ask_hosts(hosts: Sequence[str], question: Question) -> dict[str, Answer]:
    """The answers of all ``hosts``, asked at the same time. A host that does not answer costs about 10 seconds."""
    asked = {host: _Asked(host, question) for host in hosts}
    try:
        while any(one.answer is None for one in asked.values()):
            for one in asked.values():
                one.look()
            time.sleep(POLL_SECONDS)
    finally:
        for one in asked.values():
            one.close()
    return {host: one.answer for host, one in asked.items() if one.answer is not None}


class Listener:
    """A free port of this machine, at which whoever knocks is greeted: the others see whether they can reach it."""

    def __init__(self, port: int | None = None) -> None:
        """Raises OSError where ``port`` is taken."""
        family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        self._socket = socket.create_server(
            ("", port or 0), family=family, dualstack_ipv6=family == socket.AF_INET6, backlog=64
        )
        self.port: int = self._socket.getsockname()[1]
        self.greeting = os.urandom(8).hex()
        threading.Thread(target=self._greet, daemon=True).start()

    def _greet(self) -> None:
        while True:
            try:
                line, _ = self._socket.accept()
            except OSError:
                return  # closed
            with line:
                try:
                    line.sendall(self.greeting.encode())
                except OSError:
                    continue  # it went away again

    def close(self) -> None:
        """Free the port."""
        with contextlib.suppress(OSError):  # some systems refuse it for a socket that only listens
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
