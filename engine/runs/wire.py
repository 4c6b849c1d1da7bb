"""What the supervisor of a run and the nodes on its other hosts say to each other: one JSON object per line.

A blank line says only that the other end is there. Device samples, notices and failures are events as they stand in
the files of a run.
"""

from __future__ import annotations

import msgspec

from engine.contract.events import DevicesFound, Failure, Launched, Notice, Telemetry
from engine.contract.rundir import WorkerError
from engine.runs.hosts import Place
from engine.runs.processes import RankProcess

BEAT_SECONDS = 5.0
"""How often the supervisor says that it is there; a node says something every second."""
SILENT_SECONDS = 60.0
"""After which the other end is taken to be gone."""


class _Word(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """What all messages have."""


class Begin(_Word, frozen=True, kw_only=True, tag="begin"):
    """To a node, first of all: the run, and which part of it is the node's."""

    place: Place
    host: str
    """As the layout names it."""
    directory: str
    """Of the run on the first host."""
    mark: str
    """Name of a file in it: a node that sees the file shares its disk with the first host."""
    spec: str
    """The files of the run, word for word."""
    plan: str
    info: str
    environment: dict[str, str] = {}
    """What the person has set for the network, unless it is set there."""


class Go(_Word, frozen=True, kw_only=True, tag="go"):
    """To a node: the data of all hosts is ready; train."""


class End(_Word, frozen=True, kw_only=True, tag="end"):
    """To a node: end your workers, and yourself."""


ToNode = Begin | Go | End


class Ready(_Word, frozen=True, kw_only=True, tag="ready"):
    """From a node: it has begun."""

    pid: int
    directory: str
    shared: bool


class Prepared(_Word, frozen=True, kw_only=True, tag="prepared"):
    """From a node: its data is ready."""

    fingerprint: str | None
    """None on a shared disk, where it is the first host's."""


class Log(_Word, frozen=True, kw_only=True, tag="log"):
    """From a node: new lines of its log."""

    lines: tuple[str, ...]
    left_out: int = 0
    """Lines before them that are only in its own log."""


class RankFailed(_Word, frozen=True, kw_only=True, tag="rank-failed"):
    """From a node: what a rank has said of its failure."""

    error: WorkerError


class RankEnded(_Word, frozen=True, kw_only=True, tag="rank-ended"):
    """From a node: a rank ended otherwise than with 0."""

    process: RankProcess
    seconds_ago: float


class Exited(_Word, frozen=True, kw_only=True, tag="exited"):
    """From a node, last of all: how the launcher of its workers ended."""

    exit_code: int


FromNode = (
    Ready | Prepared | Log | RankFailed | RankEnded | Exited | DevicesFound | Telemetry | Launched | Notice | Failure
)

to_node: msgspec.json.Decoder[ToNode] = msgspec.json.Decoder(ToNode)
from_node: msgspec.json.Decoder[FromNode] = msgspec.json.Decoder(FromNode)
