"""The names of ``layout.hosts``: what a name may be, and what it is called in files."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence

from engine.contract.errors import Problem

LOCALHOST = "localhost"
"""Stands for the machine that a run is started on."""
HOST_NAME = re.compile(r"[A-Za-z0-9_\[][A-Za-z0-9._:@%\[\]-]{0,252}")
"""An ssh alias, a name, an address, or ``user@`` one of them. A leading dash would be an option to ssh."""
LARGEST_STEM = 200
"""Of the 255 bytes that a file's name may have."""


def host_problems(hosts: Sequence[str]) -> Iterator[Problem]:
    """What is wrong with the names themselves."""
    field = "layout.hosts"
    if not hosts:
        yield Problem(field=field, message="an empty list of hosts", hint="leave it out to train on this machine alone")
    for host, count in Counter(hosts).items():
        if not HOST_NAME.fullmatch(host):
            hint = "give an ssh alias, a name or an address, with user@ before it if need be"
            yield Problem(field=field, message=f"{host!r} is no name of a host", hint=hint)
        elif count > 1:
            hint = "name each host once; its devices each get a rank"
            yield Problem(field=field, message=f"{host} is named {count} times", hint=hint)


def file_stem(host: str) -> str:
    """``host`` as the name of its telemetry file: different for each, and no longer than file systems take."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", host)[:LARGEST_STEM]
    return plain if plain == host else f"{plain}-{zlib.crc32(host.encode()):08x}"
