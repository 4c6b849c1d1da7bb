"""What happened in a run, told in lines: which events are told at all, and in what words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.contract.events import (
    AnyEvent,
    Checkpoint,
    CommandDone,
    DataReady,
    Detached,
    Failure,
    Launched,
    Notice,
    Sample,
    Started,
    State,
)
from tui.text import reason_words


@dataclass(frozen=True, slots=True)
class Happening:
    """One line of the events pane."""

    when: float
    step: int | None
    level: str
    """``info``, ``warning`` or ``error``."""
    text: str
    """Not yet neutralised."""


def happening(event: AnyEvent) -> Happening | None:
    """The line that tells of ``event``; None for one that is not told."""
    words = _WORDS.get(type(event))
    if words is None or (told := words(event)) is None:
        return None
    level, text = told
    return Happening(when=event.time, step=event.step, level=level, text=text)


_Told = tuple[str, str]
"""Level and text."""


def _state(event: State) -> _Told:
    reason = reason_words(event.state, event.reason)
    words = f"{event.state}: {reason}" if reason else event.state
    return ("error" if event.state == "failed" else "info"), words


def _started(event: Started) -> _Told | None:
    return ("info", f"goes on from checkpoint {event.resumed_from}") if event.resumed_from else None


def _data(event: DataReady) -> _Told:
    words = "was prepared before" if event.cached else "is prepared"
    return "info", f"the data {words}: {event.train_tokens:,} tokens to train on"


def _failure(event: Failure) -> _Told:
    return "error", f"{event.title}: {event.message}" if event.message else event.title


def _command(event: CommandDone) -> _Told:
    said = f": {event.message}" if event.message else ""
    if event.accepted:
        return "info", f"{event.action} done{said}"
    return "warning", f"{event.action} refused{said}"


_WORDS: dict[type, Callable[[Any], _Told | None]] = {
    State: _state,
    Started: _started,
    DataReady: _data,
    Checkpoint: lambda event: ("info", f"checkpoint {event.name}" + (" (best so far)" if event.best else "")),
    Failure: _failure,
    Sample: lambda _: ("info", "wrote a sample of text"),
    Notice: lambda event: (event.level, event.message),
    CommandDone: _command,
    Launched: lambda event: ("info", f"started the {event.what} process (pid {event.pid})"),
    Detached: lambda event: (
        "info",
        f"begun as a Slurm job on {event.host} (pid {event.pid})" if event.how == "slurm"
        else f"cut loose from its terminal with {event.how} (pid {event.pid} on {event.host})",
    ),
}  # fmt: skip
