"""Where things are in the directory of a run."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import msgspec

MARKER = "run.json"
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,120}")
CHECKPOINT_NAME = re.compile(r"step-(\d{1,12})")
CHECKPOINT_MANIFEST = "manifest.json"


class RunInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What ``run.json`` holds: it marks a directory as a run of ours. Written once."""

    id: str
    name: str
    created: float
    """Seconds since the epoch."""
    host: str
    version: str
    """Of Traindeck, when the run was created."""
    schema: int = 1


class ProcessIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """A process that cannot be mistaken for a later one that got its number."""

    pid: int
    started: float | None
    """Seconds since the epoch, as the system reports it."""
    start_ticks: int | None = None
    """Clock ticks from boot to its start, where the system tells (Linux): no correction of the clock moves them."""
    boot_id: str | None = None
    host: str


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one run. Says where things are; reading and writing them is others' business."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def info(self) -> Path:
        return self.path / MARKER

    @property
    def spec(self) -> Path:
        return self.path / "spec.toml"

    @property
    def plan(self) -> Path:
        """The layout that runs (``Layout`` as JSON) and its estimate."""
        return self.path / "plan.json"

    @property
    def prepared(self) -> Path:
        """Which prepared data the run trains on; written by the data process."""
        return self.path / "prepared.json"

    @property
    def supervisor(self) -> Path:
        """Identity of the supervisor process (``ProcessIdentity`` as JSON)."""
        return self.path / "supervisor.json"

    @property
    def events(self) -> Path:
        """Folder of the event files, one for each writer."""
        return self.path / "events"

    def events_of(self, source: str) -> Path:
        """``source`` is ``supervisor``, ``data`` or ``rank0``, ``rank1`` ..."""
        return self.events / f"{source}.jsonl"

    @property
    def telemetry(self) -> Path:
        return self.path / "telemetry"

    @property
    def commands(self) -> Path:
        return self.path / "commands.jsonl"

    @property
    def log(self) -> Path:
        """Output of all processes of the run."""
        return self.path / "engine.log"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def errors(self) -> Path:
        """Folder where each rank leaves the reason of its failure."""
        return self.path / "errors"

    def error_of(self, rank: int) -> Path:
        """``WorkerError`` as JSON, where that rank failed."""
        return self.errors / f"rank{rank}.json"

    @property
    def export(self) -> Path:
        return self.path / "export"

    def is_run(self) -> bool:
        """Whether the marker is there; False also where that may not be known."""
        return os.path.isfile(self.info)  # unlike Path.is_file, it raises nothing


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``commands.jsonl``: a request of a screen or of the command line."""

    id: str
    action: str
    time: float


class WorkerError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a worker failed: what it leaves in ``errors/rank<k>.json``."""

    title: str
    message: str
    hint: str = ""
    exception: str | None = None
    """Class name of the Python exception."""
    rank: int
    traceback: str = ""
    consequence: bool = False
    """Whether the end of another rank caused this one: that rank's word says more."""


class CheckpointManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What makes a checkpoint folder complete; written last."""

    schema: int = 2
    """1: ``model.safetensors`` and ``optimiser.safetensors``, whole. 2: pieces, found by ``tensors.json``."""
    step: int
    samples: int
    """Global index of the next sample."""
    tokens: int
    elapsed_seconds: float
    validation_loss: float | None = None
    loss_scale: float | None = None
    """What the loss is multiplied by in fp16-mixed; None in other precisions."""
    loss_scale_age: int | None = None
    """Updates since ``loss_scale`` was changed."""
    files: dict[str, FileDigest]
    """Name within the folder -> size and digest."""


class FileDigest(msgspec.Struct, frozen=True, kw_only=True):
    """Size and blake2b-128 digest of a file."""

    bytes: int
    digest: str


def complete_checkpoints(directory: RunDirectory) -> list[Path]:
    """Folders of complete checkpoints, oldest step first; one that may not be read is none."""
    # unlike Path.is_file, it raises nothing
    return [folder for folder in checkpoint_folders(directory) if os.path.isfile(folder / CHECKPOINT_MANIFEST)]


def checkpoint_folders(directory: RunDirectory) -> list[Path]:
    """Folders with the name of a checkpoint, oldest step first; one without a manifest has lost it since."""
    if not directory.checkpoints.is_dir():
        return []
    named = ((CHECKPOINT_NAME.fullmatch(folder.name), folder) for folder in directory.checkpoints.iterdir())
    return [folder for _, folder in sorted((int(match[1]), folder) for match, folder in named if match)]
