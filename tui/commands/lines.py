"""A training as lines of text: one for each thing that a person without a screen wants to know."""

from __future__ import annotations

import math
import time

from engine.contract.events import (
    AnyEvent,
    Checkpoint,
    DataReady,
    Ended,
    Failure,
    Notice,
    Progress,
    Sample,
    Started,
    State,
    Train,
    Validation,
)
from tui.state import RunView
from tui.text import human_bytes, human_count, human_duration, human_number, printable, reason_words

TRAIN_SECONDS = 2.0
"""Training measurements are shown at most this often, however fast the steps are."""
PROGRESS_SECONDS = 1.0


class ProgressLines:
    """Turns the events of one run into lines, in the order in which they come.

    The events must have been applied to ``view`` before.
    """

    def __init__(self, view: RunView) -> None:
        self._view = view
        self._last_train = -math.inf
        self._last_progress = -math.inf
        self._stage = ""

    def of(self, event: AnyEvent) -> list[str]:
        """The lines for an event: none for most."""
        lines = self._lines(event)
        if not lines:
            return []
        stamp = time.strftime("%H:%M:%S", time.localtime(event.time))
        return [f"{stamp}  {lines[0]}", *(f"          {line}" for line in lines[1:])]

    def _lines(self, event: AnyEvent) -> list[str]:
        match event:
            case Train():
                return self._train(event)
            case Progress():
                return self._progress(event)
            case Validation():
                return [self._validation(event)]
            case Started():
                return [_started(event)]
            case Sample():
                return [f"sample    {self._place(event.step)}", *sample_lines(event)]
            case _:
                return _rare(event)

    def _train(self, event: Train) -> list[str]:
        is_last = event.step is not None and event.step == self._view.max_steps
        if event.time - self._last_train < TRAIN_SECONDS and not is_last:
            return []
        self._last_train = event.time
        perplexity = math.exp(event.loss) if event.loss is not None and event.loss < 700 else None
        left = self._view.eta_seconds()
        return [
            f"train     {self._place(event.step)}  loss {human_number(event.loss)}"
            f"  perplexity {human_number(perplexity)}  lr {human_number(event.lr, 3)}"
            f"  {human_count(event.tokens_per_second)} tokens/s" + (f"  {human_duration(left)} left" if left else "")
        ]

    def _progress(self, event: Progress) -> list[str]:
        is_done = event.total is not None and event.done >= event.total
        if event.what == self._stage and event.time - self._last_progress < PROGRESS_SECONDS and not is_done:
            return []
        self._stage, self._last_progress = event.what, event.time
        what = printable(event.what, newlines=False)
        if event.total is None and not event.done:
            return [f"data      {what}"]
        amount = human_bytes if event.unit == "bytes" else human_count
        unit = "" if event.unit == "bytes" else f" {printable(event.unit, newlines=False)}"
        of_total = f" of {amount(event.total)}" if event.total is not None else ""
        return [f"data      {what}: {amount(event.done)}{of_total}{unit}".rstrip()]

    def _validation(self, event: Validation) -> str:
        return (
            f"validate  {self._place(event.step)}  loss {human_number(event.loss)}"
            f"  perplexity {human_number(event.perplexity)}  bits per byte {human_number(event.bits_per_byte)}"
        )

    def _place(self, step: int | None) -> str:
        last = self._view.max_steps
        return f"step {step or 0:,}" + (f" of {last:,}" if last is not None else "")


def sample_lines(event: Sample) -> list[str]:
    """A generated text, prompt included, each line after a bar."""
    return [f"| {line}".rstrip() for line in printable(event.prompt + event.text).strip("\n").split("\n")]


def _started(event: Started) -> str:
    devices = ", ".join(printable(name, newlines=False) for name in dict.fromkeys(event.device_names))
    begin = f"from step {event.step:,}" if event.step else "from the start"
    return (
        f"start     {begin}: {human_count(event.parameters)} parameters on {event.world_size} x {event.accelerator}"
        f"{f' ({devices})' if devices else ''}, {event.batch_size} x {event.sequence_length} tokens a step,"
        f" {event.precision}"
    )


def _rare(event: AnyEvent) -> list[str]:
    match event:
        case State(state="running" | "starting"):
            return []  # the lines that follow say so
        case State():
            return f"{event.state:<8}  {printable(reason_words(event.state, event.reason))}".rstrip().split("\n")
        case DataReady():
            return [
                f"data      {'prepared before' if event.cached else 'ready'}: {human_count(event.train_tokens)} tokens"
                f" to train on, {human_count(event.validation_tokens)} to validate, vocabulary {event.vocabulary:,}"
            ]
        case Checkpoint():
            best = ", the best so far" if event.best else ""
            return [f"saved     {printable(event.name)} ({human_bytes(event.bytes)}){best}"]
        case Notice():
            return f"{event.level:<8}  {printable(event.message)}".split("\n")
        case Ended():
            why = printable(reason_words("finished", event.reason))
            return [
                f"end       {why} after {human_count(event.tokens)} tokens"
                f" and {human_duration(event.elapsed_seconds)} of training"
            ]
        case Failure():
            return failure_lines(event)
        case _:
            return []


def failure_lines(event: Failure) -> list[str]:
    """Why a run failed: title, message, remedy, and the end of the log where nothing better is known."""
    rank = f" (rank {event.rank})" if event.rank is not None else ""
    said = printable(event.message).split("\n") if event.message else []
    hint = printable(event.hint).split("\n") if event.hint else []
    log = (
        [f"| {printable(line, newlines=False)}" for line in event.log_tail[-10:]]
        if event.exception != "DataError"
        else []
    )
    return [f"failed    {printable(event.title, newlines=False)}{rank}", *said, *hint, *log]
