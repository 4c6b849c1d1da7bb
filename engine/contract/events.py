"""What happened, one JSON object per line: the only way in which a run speaks.

Every event carries ``kind, schema, seq, time, step``. Times are seconds since the epoch, ``seq`` counts the
lines of one file from 0. A reader skips and counts kinds that it does not know, and accepts fields that it does
not know, so that an older screen can watch a newer run.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from engine.contract.machine import Device, DeviceSample
from engine.contract.states import RunStateName

SCHEMA = 1
"""Raised when the meaning of a field changes; new fields and kinds do not raise it."""


class Event(msgspec.Struct, kw_only=True, tag_field="kind"):
    """What all events have. ``schema``, ``seq`` and ``time`` are filled in by the journal that writes it."""

    schema: int = 0
    seq: int = -1
    time: float = 0.0
    step: int | None = None
    """Optimiser steps completed when it happened; None before training."""


class State(Event, kw_only=True, tag="state"):
    """The run entered a state."""

    state: RunStateName
    reason: str = ""
    """Why, in words for a person."""


class Launched(Event, kw_only=True, tag="launched"):
    """The supervisor started a process of the run."""

    what: str
    """``data`` or ``training``, with the host in brackets where it is another; ``ssh to`` that host."""
    pid: int
    command: tuple[str, ...]


class Detached(Event, kw_only=True, tag="detached"):
    """How the supervisor was cut loose from the terminal; ``slurm``: it is the process of a batch job."""

    how: Literal["setsid", "systemd-run", "slurm"]
    pid: int
    host: str


class CommandDone(Event, kw_only=True, tag="command-done"):
    """A line of ``commands.jsonl`` was carried out or refused."""

    id: str
    action: str
    accepted: bool
    message: str = ""


class Progress(Event, kw_only=True, tag="progress"):
    """How far a long preparation is."""

    what: str
    """The stage in words: ``training the tokenizer``."""
    done: float
    total: float | None = None
    unit: str = ""
    """``bytes``, or what is counted, in the plural."""


class DataReady(Event, kw_only=True, tag="data-ready"):
    """The text is packed and can be trained on."""

    directory: str
    fingerprint: str
    documents: int
    bytes: int
    vocabulary: int
    train_tokens: int
    validation_tokens: int
    unknown_rate: float | None
    """Share of tokens that are the unknown token; None where the tokenizer has none."""
    cached: bool


class Started(Event, kw_only=True, tag="started"):
    """Training begins, or goes on after a resume: ``step`` says where."""

    parameters: int
    world_size: int
    accelerator: str
    device_names: tuple[str, ...]
    batch_size: int
    """Sequences per step over all devices."""
    micro_batch: int
    accumulation: int
    sequence_length: int
    precision: str
    optimiser: str
    max_steps: int | None
    max_tokens: int | None = None
    max_seconds: float | None = None
    flops_per_token: float | None = None
    versions: dict[str, str] = {}
    resumed_from: str | None = None
    """Name of the checkpoint folder."""


class Train(Event, kw_only=True, tag="train"):
    """Measurements of one logging interval that ends at ``step``."""

    loss: float | None
    """Mean cross-entropy over the tokens of the interval's last step, in nats; None if not finite."""
    lr: float
    grad_norm: float | None
    """Before clipping."""
    tokens: int
    """Trained since the start of the run, over all resumes."""
    samples: int
    """Likewise; the next batch begins with this global sample index."""
    tokens_per_second: float
    step_seconds: float
    """Mean over the interval."""
    elapsed_seconds: float
    """Since training first began, over all resumes, with evaluations, samples and checkpoints; pauses not counted."""
    data_wait_seconds: float | None = None
    """Of one step, mean over the interval."""


class Validation(Event, kw_only=True, tag="validation"):
    """The model was evaluated on held-out text."""

    loss: float | None
    """Mean cross-entropy per token in nats."""
    perplexity: float | None
    """``exp(loss)``; None when it overflows or the loss is not finite."""
    bits_per_byte: float | None
    """Compares across tokenizers: nats over all tokens / (ln 2 x bytes of the text). With ``evaluation.max_batches``
    the mean loss of that part, by the mean number of bytes per token of the whole set."""
    tokens: int
    seconds: float


class Sample(Event, kw_only=True, tag="sample"):
    """Text that the model wrote. Control characters are the reader's to neutralise."""

    prompt: str
    text: str


class Checkpoint(Event, kw_only=True, tag="checkpoint"):
    """A checkpoint is complete on disk."""

    name: str
    bytes: int
    seconds: float
    best: bool = False


class CheckpointRemoved(Event, kw_only=True, tag="checkpoint-removed"):
    """A checkpoint was deleted because newer or better ones are kept."""

    name: str


class Notice(Event, kw_only=True, tag="notice"):
    """Something that a person should know and that stops nothing."""

    level: Literal["info", "warning", "error"] = "info"
    message: str


class Failure(Event, kw_only=True, tag="failure"):
    """Why the run ended without finishing."""

    title: str
    message: str
    hint: str = ""
    exception: str | None = None
    """Class name of the Python exception, if it was one."""
    rank: int | None = None
    exit_code: int | None = None
    """Negative: ended by that signal."""
    log_tail: tuple[str, ...] = ()
    """The last lines of the process output."""


class Ended(Event, kw_only=True, tag="ended"):
    """Training ended as planned."""

    reason: str
    """``max_steps``, ``max_tokens``, ``max_epochs``, ``max_seconds`` or ``stopped``."""
    tokens: int
    elapsed_seconds: float


class DevicesFound(Event, kw_only=True, tag="devices"):
    """What the host has: written once, before its samples."""

    host: str
    devices: tuple[Device, ...]


class Telemetry(Event, kw_only=True, tag="telemetry"):
    """One sample of the devices that the run uses, and of its own processes."""

    samples: tuple[DeviceSample, ...]
    cpu_fraction: float | None = None
    """Busy share of all cores of the host, 0 to 1."""
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None


class Unknown(msgspec.Struct):
    """A line that this version cannot read: a newer kind, or damage."""

    line: bytes
    reason: str


KNOWN: tuple[type[Event], ...] = (
    State, Launched, Detached, CommandDone, Progress, DataReady, Started, Train, Validation, Sample, Checkpoint,
    CheckpointRemoved, Notice, Failure, Ended, DevicesFound, Telemetry,
)  # fmt: skip

AnyEvent = (
    State | Launched | Detached | CommandDone | Progress | DataReady | Started | Train | Validation | Sample
    | Checkpoint | CheckpointRemoved | Notice | Failure | Ended | DevicesFound | Telemetry
)  # fmt: skip


class Codec:
    """Encodes and decodes lines. Not finite numbers become null: JSON has no word for them."""

    _decoder: ClassVar[msgspec.json.Decoder[AnyEvent]] = msgspec.json.Decoder(AnyEvent)
    _encoder: ClassVar[msgspec.json.Encoder] = msgspec.json.Encoder()

    @classmethod
    def encode(cls, event: Event) -> bytes:
        """One line, newline included."""
        return cls._encoder.encode(event) + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> AnyEvent | Unknown:
        """The event in a line, or :class:`Unknown`; never raises."""
        try:
            return cls._decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return Unknown(line=line, reason=str(error))
