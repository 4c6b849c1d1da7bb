"""What the workers do after a step besides the next one, decided together."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from engine.contract.events import CommandDone
from engine.contract.rundir import Command
from engine.training.devices import Ranks
from engine.training.inbox import Inbox
from engine.training.reporter import Reporter
from engine.training.stopflag import WHY_STOP, StopFlag


class Act(IntEnum):
    """What is to be done; of several wishes the highest is granted."""

    NOTHING = 0
    CHECKPOINT = 1
    RESUME = 2
    PAUSE = 3
    STOP = 4


ACTS = {"checkpoint": Act.CHECKPOINT, "resume": Act.RESUME, "pause": Act.PAUSE, "stop": Act.STOP}

NOT_SAVED = "the checkpoint was not written: the notices of the run say why"
NOBODY, REQUESTED = "", "requested"
REASONS = (NOBODY, REQUESTED, *WHY_STOP)
"""Why something is done, by rising weight: a signal that comes with a request decides."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What all ranks do now."""

    act: Act
    elapsed_seconds: float
    """Rank 0's clock: the one that time limits and schedules go by."""
    reason: str = ""
    """Why; the same on all ranks."""
    command: Command | None = None
    """The request to be acknowledged when it is done, on rank 0. A stop that saves grants one for a checkpoint."""


class Control:
    """Collects requests and signals, and lets the ranks agree on one act."""

    def __init__(self, ranks: Ranks, flag: StopFlag | None, inbox: Inbox | None, reporter: Reporter) -> None:
        self._ranks = ranks
        self._flag = flag
        self._inbox = inbox
        self._reporter = reporter

    def decide(self, elapsed_seconds: float, *, paused: bool = False) -> Decision:
        """The one act that follows; every rank calls this at the same point and gets the same answer."""
        command = self._acceptable(paused)
        wish, reason = Act.NOTHING, NOBODY
        if command is not None:
            wish, reason = ACTS[command.action], REQUESTED
        if self._flag is not None and (why := self._flag.reason()):
            wish, reason = Act.STOP, why
        clock = int(elapsed_seconds * 1e6) if self._ranks.rank == 0 else 0
        wished, microseconds, number = self._ranks.highest([wish, clock, REASONS.index(reason)])
        act, reason = Act(wished), REASONS[number]
        if command is not None and act is not ACTS[command.action] and command.action != "checkpoint":
            self._acknowledge(command, False, f"the training stops: {reason}")
            command = None
        return Decision(act=act, elapsed_seconds=microseconds / 1e6, reason=reason, command=command)

    def stop_is_asked(self) -> bool:
        """Whether this rank knows of a wish to stop that is not decided yet: a reason to hurry."""
        if self._flag is not None and self._flag.reason() is not None:
            return True
        return self._inbox is not None and self._inbox.has("stop")

    def done(self, decision: Decision, message: str = "", *, saved: bool = True) -> None:
        """Acknowledge the request behind ``decision``, if there is one; ``saved``: whether it left a checkpoint.

        Without one a pause is still a pause and a stop a stop, but a request for a checkpoint came to nothing.
        """
        if decision.command is not None:
            accepted = saved or decision.command.action != "checkpoint"
            self._acknowledge(decision.command, accepted, message if saved else NOT_SAVED)

    def refuse_rest(self) -> None:
        """Answer the requests that came too late."""
        while self._inbox is not None and (command := self._inbox.next()) is not None:
            self._acknowledge(command, False, "the training has ended")

    def _acceptable(self, paused: bool) -> Command | None:
        """The next request that makes sense now; the ones that do not are refused."""
        while self._inbox is not None and (command := self._inbox.next()) is not None:
            if command.action not in ACTS:
                self._acknowledge(command, False, f"there is no action {command.action!r}")
            elif command.action == "resume" and not paused:
                self._acknowledge(command, False, "the training is not paused")
            elif command.action == "pause" and paused:
                self._acknowledge(command, False, "the training is paused already")
            else:
                return command
        return None

    def _acknowledge(self, command: Command, accepted: bool, message: str) -> None:
        self._reporter.emit(CommandDone(id=command.id, action=command.action, accepted=accepted, message=message))
