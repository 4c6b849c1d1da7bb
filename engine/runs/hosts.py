"""Which of a run's hosts is this machine, and what a person has said about the others."""

from __future__ import annotations

import os
import shlex
import sys

import msgspec

from engine.contract.errors import TraindeckError
from engine.contract.hosts import LOCALHOST
from engine.contract.layout import Layout
from engine.hardware.host import host_name

SSH = "TRAINDECK_SSH"
"""Environment variable: the ssh program with options of its own, as in a shell (``ssh -F file``)."""
PYTHON = "TRAINDECK_REMOTE_PYTHON"
"""Environment variable: the Python that has Traindeck there: one path for all hosts, or ``host=path`` for each."""
ADDRESS, PORT = "MASTER_ADDR", "MASTER_PORT"
"""Environment variables: where the hosts meet; found out where they are not set."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of a run on several hosts one of them has."""

    node: int
    """Position of the host in ``layout.hosts``."""
    address: str = "ADDRESS"
    """Of the first host, as the others reach it."""
    port: int | None = None
    """None before it is known."""
    run: str = "RUN"
    """Id of the run: workers of another one that come to this port are not let in."""

    @property
    def endpoint(self) -> str:
        """``address:port``, with brackets around an IPv6 address."""
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{address}:{'PORT' if self.port is None else self.port}"


def is_here(host: str) -> bool:
    """Whether ``host`` names this machine."""
    name = host_name()
    return host in {LOCALHOST, name, name.partition(".")[0]}


def other_hosts(layout: Layout) -> dict[int, str]:
    """The hosts that are reached by ssh, by their position; none for a run on this machine alone."""
    return {node: host for node, host in enumerate(layout.hosts or ()) if node > 0 or not is_here(host)}


def node_count(layout: Layout) -> int:
    """How many machines the run takes."""
    return len(layout.hosts) if layout.hosts else 1


def ranks_per_host(layout: Layout) -> int:
    """Workers on each machine."""
    return layout.world_size // node_count(layout)


def host_of(layout: Layout, rank: int) -> str | None:
    """The name of the host that has ``rank``; None for a run on one machine."""
    if layout.hosts is None or len(layout.hosts) < 2:
        return None
    return layout.hosts[min(rank // ranks_per_host(layout), len(layout.hosts) - 1)]


def ssh_program() -> list[str]:
    """The ssh to use. Raises TraindeckError where the variable is no command line."""
    return _words(SSH) or ["ssh"]


def pythons_of(host: str) -> list[str]:
    """Where to look for the Python of ``host`` first: what was said of it, else the path that it has here."""
    named: dict[str, str] = {}
    everywhere: list[str] = []
    for word in _words(PYTHON):
        name, equals, path = word.partition("=")
        if equals:
            named[name] = path
        else:
            everywhere = [word]
    if host in named:
        return [named[host]]
    return everywhere or [sys.executable]


def was_told(host: str) -> bool:
    """Whether a person has said which Python of ``host`` to use, so that no other will do."""
    return pythons_of(host) != [sys.executable]


def _words(variable: str) -> list[str]:
    text = os.environ.get(variable, "")
    try:
        return shlex.split(text)
    except ValueError as error:
        raise TraindeckError(f"{variable} cannot be read", f"{text!r}: {error}", "Close its quotation marks.") from None
