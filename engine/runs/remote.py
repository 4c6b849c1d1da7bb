"""One of the other hosts of a run, as its supervisor sees it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import msgspec

from engine.contract.durable import write_durably
from engine.contract.events import DevicesFound, Event, Failure, Launched, Notice, Telemetry
from engine.contract.journal import Journal
from engine.contract.records import UNREADABLE
from engine.contract.rundir import RunDirectory
from engine.runs.command import node_command
from engine.runs.processes import folder_of
from engine.runs.ssh import Connection
from engine.runs.telemetry import journal_of
from engine.runs.wire import (
    BEAT_SECONDS,
    SILENT_SECONDS,
    Begin,
    Exited,
    FromNode,
    Log,
    Prepared,
    RankEnded,
    RankFailed,
    Ready,
    from_node,
)

Say = Callable[[Event], None]
_FORWARDED = ("NCCL_", "TORCH_NCCL_", "GLOO_", "UCX_")


class Remote:
    """A node: what it says is written into the directory of the run, as if it happened here."""

    def __init__(self, run: RunDirectory, begin: Begin, python: str, say: Say) -> None:
        """Raises OSError where ssh cannot be started."""
        self.host = begin.host
        self.prepared = False
        self.fingerprint: str | None = None
        self.exit_code: int | None = None
        """Of the launcher of its workers."""
        self.failure: Failure | None = None
        """Why this host cannot go on, other than by what its ranks say."""
        self._node = begin.place.node
        self._run = run
        self._say = say
        self._journal: Journal | None = None
        self._gone = False
        self._log = os.open(run.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._line = Connection(self.host, node_command(python), self._write_log)
        self._heard = time.monotonic()
        self._beat_at = 0.0
        say(Launched(what=f"ssh to {self.host}", pid=self._line.pid, command=self._line.command))
        self.tell(begin)

    @property
    def pid(self) -> int:
        """Of the ssh that leads there."""
        return self._line.pid

    @property
    def ended(self) -> bool:
        """Whether nothing more will come from there."""
        return self._gone

    def tell(self, word: msgspec.Struct) -> None:
        self._line.send(msgspec.json.encode(word))

    def tick(self) -> None:
        """Take in what has come, and let the node know that we are here. Raises OSError on a full disk."""
        if self._gone:
            return
        now = time.monotonic()
        if now >= self._beat_at:
            self._beat_at = now + BEAT_SECONDS
            self._line.send(b"")
        code = self._line.poll()
        for raw in self._line.lines():
            try:
                word = from_node.decode(raw)
            except UNREADABLE:
                self._write_log(raw.decode(errors="replace").rstrip())  # of the far shell's own start-up files
                continue
            self._heard = now
            self._hear(word)
        if code is not None:
            self._gone = True
            if self.exit_code is None:
                self._lose(f"the connection to its part of the run ended: {self._last_words(code)}")
        elif now - self._heard > SILENT_SECONDS:
            self._gone = True
            self._lose(f"nothing was heard from it for {SILENT_SECONDS:.0f} seconds")

    def close(self) -> None:
        """End the connection, and with it what is left of the node."""
        self._gone = True
        self._line.kill()
        if self._journal is not None:
            self._journal.close()
        os.close(self._log)

    def _last_words(self, code: int) -> str:
        said = list(self._line.complaints)
        return said[-1] if said else f"ssh ended with exit code {code}, and Traindeck there said nothing"

    def _lose(self, message: str) -> None:
        hint = f"See whether it is on, reachable (ssh {self.host}) and has memory left; then: traindeck resume "
        if self.failure is None:
            self.failure = Failure(title=f"{self.host} was lost", message=message, hint=hint + self._run.id)

    def _hear(self, word: FromNode) -> None:
        match word:
            case Ready():
                where = "shares its disk with this host" if word.shared else f"works in {word.directory}"
                self._say(Notice(level="info", message=f"{self.host} {where}"))
            case Prepared():
                self.prepared, self.fingerprint = True, word.fingerprint
            case Log():
                if word.left_out:
                    self._write_log(f"... {word.left_out} lines are only in the log there")
                for line in word.lines:
                    self._write_log(line)
            case DevicesFound() | Telemetry():
                self._write_telemetry(word)
            case Launched():
                self._say(Launched(what=f"{word.what} ({self.host})", pid=word.pid, command=word.command))
            case Notice():
                self._say(Notice(level=word.level, message=f"{self.host}: {word.message}"))
            case Failure():
                self.failure = self.failure or _on(self.host, word)
            case RankFailed():
                write_durably(self._run.error_of(word.error.rank), msgspec.json.encode(word.error))
            case RankEnded():
                self._note_end(word)
            case Exited():
                self.exit_code = word.exit_code

    def _note_end(self, word: RankEnded) -> None:
        """Where the worker's guard would have noted it, by this machine's clock."""
        folder = folder_of(self._run, self._node)
        folder.mkdir(mode=0o700, exist_ok=True)
        ended = time.time() - word.seconds_ago
        process = msgspec.structs.replace(word.process, ended=ended, log_bytes=None)
        write_durably(folder / f"rank{process.rank}.json", msgspec.json.encode(process))

    def _write_telemetry(self, event: DevicesFound | Telemetry) -> None:
        if self._journal is None:
            self._journal = journal_of(self._run, self.host)
        self._journal.write(event)

    def _write_log(self, line: str) -> None:
        """One ``write`` to a file opened for appending: what other processes write at once is not mixed with it."""
        try:
            os.write(self._log, f"[{self.host}] {line}\n".encode())
        except OSError:
            return  # the disk is full, or the run is over: there is no better place to tell it


def _on(host: str, failure: Failure) -> Failure:
    """``failure`` with the host in its words."""
    message = f"on {host}: {failure.message}" if failure.message else f"on {host}"
    return Failure(
        title=failure.title, message=message, hint=failure.hint, exception=failure.exception, rank=failure.rank,
        exit_code=failure.exit_code, log_tail=failure.log_tail,
    )  # fmt: skip


def forwarded_environment(environment: dict[str, str]) -> dict[str, str]:
    """What a person has set for the network between the hosts, that the others should have too."""
    return {name: value for name, value in environment.items() if name.startswith(_FORWARDED)}
