"""``python -P -m engine.runs.probe``: what a host is like, asked before a run on several of them.

It reads one question from its input and prints two lines: who is there with which versions, and, once it has been
sent another line, what was asked. The first has a form that other versions understand too.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from engine.contract.errors import TraindeckError
from engine.contract.machine import Device
from engine.contract.records import decode_record
from engine.hardware.detect import detect
from engine.hardware.host import host_name, usable_cores
from engine.runs.home import home

COMPARED = ("traindeck", "torch", "lightning")
"""Packages whose versions decide whether two hosts can train together."""
KNOCK_SECONDS = 3.0
GREETING_BYTES = 32


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is wanted of a host."""

    paths: tuple[str, ...] = ()
    """Files and folders that it should be able to read."""
    addresses: tuple[str, ...] = ()
    """Where the first host may be reached, besides the address that the ssh connection came from."""
    port: int | None = None
    greeting: str = ""
    """What the first host says on that port: another machine with the same address does not know it."""


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """The first line."""

    host: str
    python: str
    """Path of the interpreter."""
    versions: dict[str, str | None]


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """The second line. Unknown is None."""

    time: float
    """Of the host's clock, when the second line was asked for."""
    devices: tuple[Device, ...]
    cpu_cores: int
    home: str | None
    home_problem: str | None = None
    free_bytes: int | None = None
    """On the disk of its home."""
    missing: tuple[str, ...] = ()
    """The paths that cannot be read."""
    reached: dict[str, str | None] = {}
    """Address of the first host -> None where it answered, else why it did not."""


def hello() -> Hello:
    """Who this is."""
    versions = {"python": platform.python_version(), **{name: _version(name) for name in COMPARED}}
    return Hello(host=host_name(), python=sys.executable, versions=versions)


def facts(question: Question) -> Facts:
    """What this host is like, as far as ``question`` goes."""
    now = time.time()
    machine = detect()
    folder, problem, free = None, None, None
    try:
        folder = str(home())
        free = shutil.disk_usage(folder).free
    except TraindeckError as error:
        problem = error.message
    return Facts(
        time=now,
        devices=machine.devices,
        cpu_cores=usable_cores(),
        home=folder,
        home_problem=problem,
        free_bytes=free,
        missing=tuple(path for path in question.paths if not os.access(Path(path).expanduser(), os.R_OK)),
        reached={} if question.port is None else _knock(question, question.port),
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _knock(question: Question, port: int) -> dict[str, str | None]:
    """Which addresses of the first host lead to it, all tried at once."""
    addresses = list(dict.fromkeys([*_seen_from(), *question.addresses]))
    if not addresses:
        return {}
    with ThreadPoolExecutor(len(addresses)) as threads:
        found = threads.map(lambda address: knock(address, port, question.greeting), addresses)
        return dict(zip(addresses, found, strict=True))


def _seen_from() -> Sequence[str]:
    """The address that the ssh connection comes from: the other end of it, unless there is a hop in between.

    One that means something only with the name of an interface (fe80::1%eth0) is of no use to the other hosts.
    """
    return [address for address in os.environ.get("SSH_CONNECTION", "").split()[:1] if "%" not in address]


def knock(address: str, port: int, greeting: str) -> str | None:
    """None where ``greeting`` is heard at the address; else what was wrong."""
    try:
        with socket.create_connection((address, port), timeout=KNOCK_SECONDS) as line:
            heard = b""
            while len(heard) < len(greeting) and (more := line.recv(GREETING_BYTES)):
                heard += more
    except TimeoutError:
        return "no answer"
    except OSError as error:
        return error.strerror or str(error)
    return None if heard == greeting.encode() else "another machine answers there"


def main() -> int:
    """0 when the question was answered; 1 when there was none."""
    question = decode_record(sys.stdin.buffer.readline(), Question)
    if question is None:
        print("this program is asked by another machine's Traindeck, in JSON", file=sys.stderr)
        return 1
    _say(hello())
    if not sys.stdin.buffer.readline():
        return 1
    _say(facts(question))
    return 0


def _say(words: msgspec.Struct) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(words) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
