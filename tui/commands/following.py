"""Following a run without a screen: its history once, then each new line until it ends."""

from __future__ import annotations

import time
from collections.abc import Callable

from engine.contract.events import AnyEvent
from engine.contract.rundir import RunDirectory
from engine.contract.states import LIVE
from engine.runs.state import read_state
from tui.commands.lines import ProgressLines
from tui.follow import RunFollower, read_head
from tui.state import RunView
from tui.text import printable, reason_words

POLL_SECONDS = 0.25
LOOK_SECONDS = 2.0
"""How often it is checked that a run that says nothing still lives."""
Print = Callable[[str], None]


class Following:
    """One run being followed; :attr:`view` is what is known of it so far."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        head = read_head(run)
        self.view = RunView(head.info, head.spec, head.layout)
        self._follower = RunFollower(run)
        self._lines = ProgressLines(self.view)

    def catch_up(self) -> None:
        """Take in everything that has happened so far, without a line."""
        while parts := self._follower.read_blocks():
            for source, part in parts:
                self.view.apply(part, source)
        self._look()

    def follow(self, say: Print) -> None:
        """Print what happens from here on until the run has ended. Raises KeyboardInterrupt on ctrl-c."""
        looked = time.monotonic()
        while True:
            if self._read(say):
                continue
            if self.view.state not in LIVE:
                return
            if time.monotonic() - looked >= LOOK_SECONDS:
                looked = time.monotonic()
                self._look()
                if self.view.state not in LIVE and not self._read(say):
                    reason = reason_words(self.view.state, self.view.reason)
                    say(f"{self.view.state}: {printable(reason, newlines=False)}".removesuffix(": "))
                    return
            time.sleep(POLL_SECONDS)

    def _read(self, say: Print) -> bool:
        """Whether anything was new. Files are read one after the other, so their events are put in order."""
        events: list[tuple[str, AnyEvent]] = self._follower.read()
        for source, event in sorted(events, key=lambda pair: pair[1].time):
            self.view.apply(event, source)
            for line in self._lines.of(event):
                say(line)
        return bool(events)

    def _look(self) -> None:
        state, reason = read_state(self.run)
        self.view.lost_because = (reason or "nothing is known of its processes") if state == "lost" else None
