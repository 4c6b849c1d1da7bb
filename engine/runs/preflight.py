"""Before a run on several hosts: whether they can train together, and which of them cannot."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

import msgspec

from engine.contract.errors import Problem, TraindeckError
from engine.contract.hosts import host_problems
from engine.contract.layout import Layout
from engine.contract.machine import Device
from engine.contract.source import STDLIB, kind_of
from engine.contract.spec import RunSpec
from engine.hardware.host import host_name
from engine.hardware.network import own_addresses
from engine.runs.asking import Answer, Listener, ask_hosts
from engine.runs.comparison import clock_findings, device_findings, disk_warnings, version_findings
from engine.runs.hosts import ADDRESS, PORT, is_here
from engine.runs.probe import Facts, Hello, Question, facts, hello
from engine.runs.ssh import host_problem


class HostsError(TraindeckError):
    """Hosts that cannot train together, with everything that is wrong with each."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        lines = [f"  {problem.message}" + (f" ({problem.hint})" if problem.hint else "") for problem in problems]
        super().__init__(
            f"{count} problem{'s' if count != 1 else ''} with the hosts of the run",
            "\n".join(lines),
            "Nothing was started. To look again: traindeck hosts HOST...",
        )


class HostReport(msgspec.Struct, frozen=True, kw_only=True):
    """One host of the preflight. Unknown is None."""

    host: str
    """As the layout names it."""
    here: bool
    name: str | None = None
    """What the machine calls itself."""
    python: str | None = None
    """Interpreter that has Traindeck there."""
    versions: dict[str, str | None] = {}
    clock_skew_seconds: float | None = None
    """Its clock less the one of this machine."""
    devices: tuple[Device, ...] = ()
    home: str | None = None
    """Its ``TRAINDECK_HOME``."""
    free_bytes: int | None = None
    """On the disk of its home."""
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


class Preflight(msgspec.Struct, frozen=True, kw_only=True):
    """What was found."""

    hosts: tuple[HostReport, ...]
    problems: tuple[Problem, ...] = ()
    """Of all hosts, and of what they have in common."""
    warnings: tuple[Problem, ...] = ()
    address: str | None = None
    """Of the first host, reached by all others; None where none is, or where there are no others."""
    port: int | None = None


def preflight(hosts: Sequence[str], layout: Layout | None = None, spec: RunSpec | None = None) -> Preflight:
    """Look at all ``hosts`` at once. ``layout`` says which devices each needs, ``spec`` which data.

    Nothing of a training is started. Takes about a second, and 10 where a host does not answer.
    Raises TraindeckError where an environment variable cannot be read.
    """
    problems = [*host_problems(hosts), *_first(hosts)]
    if problems:
        return Preflight(hosts=(), problems=tuple(problems))
    others = [host for host in hosts if not is_here(host)]
    paths = _paths(spec)
    given = os.environ.get(ADDRESS, "").strip()
    try:
        listener = Listener(_given_port())
    except OSError as error:
        taken = Problem(field="layout.hosts", message=f"port {os.environ.get(PORT)} of this machine: {error.strerror}",
                        hint=f"set {PORT} to a free port, or leave it out")  # fmt: skip
        return Preflight(hosts=(), problems=(taken,))
    with listener:
        question = Question(
            paths=paths, addresses=(given,) if given else own_addresses(), port=listener.port,
            greeting=listener.greeting,
        )  # fmt: skip
        answers = ask_hosts(others, question)
    mine = (hello(), facts(Question(paths=paths)))
    reports = [
        _report(host, Answer(hello=mine[0], facts=mine[1]) if is_here(host) else answers[host], mine, layout, paths)
        for host in hosts
    ]
    address, unreached = _meeting_point(given, {host: answer.facts for host, answer in answers.items()}, listener.port)
    return Preflight(
        hosts=tuple(reports),
        problems=(*(problem for report in reports for problem in report.problems), *unreached),
        warnings=tuple(warning for report in reports for warning in report.warnings),
        address=address,
        port=listener.port if address else None,
    )


def require_hosts(layout: Layout, spec: RunSpec) -> Preflight | None:
    """The preflight of a layout with other hosts, None for one on this machine alone. Raises HostsError."""
    if layout.hosts is None or all(is_here(host) for host in layout.hosts):
        return None
    found = preflight(layout.hosts, layout, spec)
    if found.problems:
        raise HostsError(found.problems)
    return found


def _first(hosts: Sequence[str]) -> list[Problem]:
    """Rank 0 keeps the run's events and checkpoints: it has to be where they are looked for."""
    here = [host for host in hosts if is_here(host)]
    if not hosts or (is_here(hosts[0]) and len(here) == 1):
        return []
    if len(here) > 1:
        message = f"{' and '.join(here)} are the same machine"
        return [Problem(field="layout.hosts", message=message, hint="name each host once")]
    where = f"it is {here[0]}, which" if here else f"{host_name()}"
    message = f"the run is kept on this machine, and {where} is not the first of the hosts"
    hint = f"put localhost first, or start it on {hosts[0]}"
    return [Problem(field="layout.hosts", message=message, hint=hint)]


def _given_port() -> int | None:
    text = os.environ.get(PORT, "").strip()
    if not text:
        return None
    if not text.isdecimal() or not 0 < int(text) < 1 << 16:
        raise TraindeckError(f"{PORT} cannot be used", f"{text!r} is no port", "Give a number from 1 to 65535.")
    return int(text)


def _paths(spec: RunSpec | None) -> tuple[str, ...]:
    """The files that every host reads for itself."""
    if spec is None:
        return ()
    own = spec.data.source != STDLIB and kind_of(spec.data) != "hub"
    return tuple(path for path in (spec.data.source if own else None, spec.tokenizer.file) if path)


def _report(
    host: str, answer: Answer, mine: tuple[Hello, Facts], layout: Layout | None, paths: Sequence[str]
) -> HostReport:
    here, said, told = is_here(host), answer.hello, answer.facts
    problems = [] if answer.problem is None else [answer.problem]
    warnings: list[Problem] = []
    if said is not None:
        wrong, odd = version_findings(host, said.versions, mine[0].versions)
        # What another version answers may not be understood: then the versions are all that is wrong.
        problems = wrong if wrong and told is None else [*problems, *wrong]
        warnings += odd
    if told is not None:
        for wrong, odd in (
            device_findings(host, told.devices, layout),
            clock_findings(host, answer.clock_skew_seconds),
        ):
            problems += wrong
            warnings += odd
        problems += [_missing(host, path) for path in told.missing]
        if told.home_problem:
            hint = "set TRAINDECK_HOME there to a folder that you can write to"
            problems.append(host_problem(host, told.home_problem, hint))
        warnings += disk_warnings(host, told.free_bytes)
    return HostReport(
        host=host,
        here=here,
        name=said.host if said else None,
        python=said.python if said else None,
        versions=said.versions if said else {},
        clock_skew_seconds=0.0 if here else answer.clock_skew_seconds,
        devices=told.devices if told else (),
        home=told.home if told else None,
        free_bytes=told.free_bytes if told else None,
        problems=tuple(problems),
        warnings=tuple(warnings),
    )


def _missing(host: str, path: str) -> Problem:
    copy = shlex.join(["rsync", "-aR", path, f"{host}:/"])
    return host_problem(host, f"{path} is not there, or cannot be read", f"copy it to the same path: {copy}")


def _meeting_point(given: str, told: dict[str, Facts | None], port: int) -> tuple[str | None, list[Problem]]:
    """An address of this machine that all other hosts reach; if there is none, each host that is in the way."""
    reached = {host: one.reached for host, one in told.items() if one is not None}
    if given:
        reached = {host: {given: found.get(given, "not tried")} for host, found in reached.items()}
    common = [
        address
        for address in dict.fromkeys(address for found in reached.values() for address in found)
        if all(found.get(address, "not tried") is None for found in reached.values())
    ]
    if common:
        return common[0], []
    hint = f"set {ADDRESS} to an address of this machine that it reaches, and open the port in the firewall ({PORT})"
    problems = []
    for host, found in reached.items():
        if not any(why is None for why in found.values()):
            tried = ", ".join(f"{address} ({why})" for address, why in found.items()) or "no address is known"
            problems.append(host_problem(host, f"it does not reach this machine at port {port}: {tried}", hint))
    if not problems and reached:
        ways = "; ".join(
            f"{host} at {', '.join(address for address, why in found.items() if why is None)}"
            for host, found in reached.items()
        )
        message = f"the hosts reach this machine at no common address: {ways}"
        problems.append(Problem(field="layout.hosts", message=message, hint=f"set {ADDRESS} to one that all can reach"))
    return None, problems
