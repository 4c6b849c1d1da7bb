"""The preflight, over a real ssh to a second machine played on this one."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.contract.errors import TraindeckError
from engine.contract.layout import Layout
from engine.contract.machine import Device
from engine.contract.spec import DataSpec, RunSpec
from engine.runs.asking import Listener
from engine.runs.comparison import clock_findings, device_findings, version_findings
from engine.runs.preflight import HostsError, preflight, require_hosts
from engine.runs.probe import Facts, knock
from tests.other_machine.fixture import NAME, WHY_NOT, OtherMachine, other_machine

BOTH = ("localhost", NAME)
CPU = Layout(
    strategy="ddp", accelerator="cpu", device_indices=(0,), hosts=BOTH, dp_replicate=2, micro_batch=1, accumulation=1,
    precision="fp32",
)  # fmt: skip
needs_ssh = pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or "")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OtherMachine]:
    with other_machine(tmp_path_factory.mktemp("other") / "machine") as found:
        yield found


@pytest.fixture
def other(machine: OtherMachine, monkeypatch: pytest.MonkeyPatch) -> Iterator[OtherMachine]:
    """A well machine; what a test changes of it is taken back."""
    for name in ("MASTER_ADDR", "MASTER_PORT", "TRAINDECK_REMOTE_PYTHON"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRAINDECK_SSH", machine.ssh)
    yield machine
    machine.set_environment()


@needs_ssh
def test_two_well_hosts_and_where_they_meet(other: OtherMachine, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("text")
    spec = RunSpec(data=DataSpec(source=str(tmp_path / "text.txt")))
    found = require_hosts(CPU, spec)
    assert found is not None
    assert found.problems == ()
    here, there = found.hosts
    assert (here.here, there.here) == (True, False)
    assert there.versions == here.versions
    assert there.versions["torch"]
    assert there.home == str(other.home)
    assert there.clock_skew_seconds is not None
    assert abs(there.clock_skew_seconds) < 1.0
    assert [device.kind for device in there.devices] == [device.kind for device in here.devices]
    assert found.address == "127.0.0.1", "the address that the ssh connection comes from"
    assert found.port is not None
    with socket.create_server(("127.0.0.1", found.port)):
        pass  # it is free again
    assert require_hosts(Layout(**{**_fields(CPU), "hosts": ("localhost",), "dp_replicate": 1}), spec) is None


@needs_ssh
def test_all_that_is_wrong_with_a_host_is_told_at_once(other: OtherMachine, tmp_path: Path) -> None:
    other.pretend("torch", "1.0.0")
    late = "import time\nreal = time.time\ntime.time = lambda: real() - 3600\n"
    (other.folder / "site" / "sitecustomize.py").write_text(late)
    with (other.folder / "environment").open("a") as file:
        file.write(f"export TRAINDECK_HOME={other.folder}/config\n")
    (tmp_path / "here.txt").write_text("text")
    gpus = Layout(**{**_fields(CPU), "accelerator": "cuda", "device_indices": (0, 5)})
    spec = RunSpec(data=DataSpec(source=str(tmp_path / "here.txt")))
    (tmp_path / "here.txt").unlink()
    with pytest.raises(HostsError) as caught:
        require_hosts(gpus, spec)
    said = [problem.message for problem in caught.value.problems if problem.message.startswith(f"{NAME}: ")]
    for words in ("torch 1.0.0 there, and", "cuda device 0, 5", "here.txt is not there", "a folder is needed",
                  "3,600.0 seconds behind"):  # fmt: skip
        assert any(words in line for line in said), (words, said)
    assert all(problem.hint for problem in caught.value.problems)
    assert len(said) == 5
    assert str(caught.value).count(f"{NAME}: ") == 5


@needs_ssh
def test_hosts_that_cannot_be_reached_are_named_together_and_soon(other: OtherMachine, tmp_path: Path) -> None:
    """Each for its own reason, asked side by side: the slowest decides how long it takes."""
    config = (other.folder / "config").read_text()
    (other.folder / "no_hosts").touch()
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as passing:
        closed = passing.getsockname()[1]
        passing.close()
        other_hosts = (
            f"Host stranger\n  HostKeyAlias stranger\n  UserKnownHostsFile {other.folder}/no_hosts\n"
            "Host locked\n  User no-such-user\n"
            f"Host silent\n  HostName 127.0.0.1\n  Port {silent.getsockname()[1]}\n"
            f"Host closed\n  HostName 127.0.0.1\n  Port {closed}\n"
            "Host nobody\n  HostName no-such-host.invalid\n"
        )  # fmt: skip
        (other.folder / "many").write_text(other_hosts + config.replace(f"Host {NAME}", "Host *"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRAINDECK_SSH", other.ssh.replace("/config", "/many"))
            patch.setenv("TRAINDECK_REMOTE_PYTHON", "bare=/usr/bin/false")
            names = ("stranger", "locked", "silent", "closed", "nobody", "bare")
            began = time.monotonic()
            found = preflight(["localhost", *names])
            took = time.monotonic() - began
    words = {
        "stranger": "host key is not known",
        "locked": "no key of yours is accepted",
        "silent": "does not answer",
        "closed": "no ssh server answers",
        "nobody": "no machine of this name",
        "bare": "Traindeck is not installed there (/usr/bin/false",
    }
    for report in found.hosts[1:]:
        assert len(report.problems) == 1, report
        assert words[report.host] in report.problems[0].message, report
        assert report.problems[0].hint
    assert 9 < took < 20, f"{took:.1f} seconds, ssh gives up after 10"
    assert found.address is None


@needs_ssh
def test_a_meeting_point_that_is_given_has_to_be_reached(other: OtherMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("MASTER_PORT", str(port))
        (problem,) = preflight(BOTH).problems
        assert f"port {port}" in problem.message
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.3")
    found = preflight(BOTH)
    assert (found.address, found.port) == ("127.0.0.3", port)
    monkeypatch.setenv("MASTER_ADDR", "no-such-host.invalid")
    (problem,) = preflight(BOTH).problems
    assert problem.message.startswith(f"{NAME}: it does not reach this machine")
    assert "no-such-host.invalid" in problem.message
    assert "MASTER_ADDR" in problem.hint
    monkeypatch.setenv("MASTER_PORT", "http")
    with pytest.raises(TraindeckError, match="MASTER_PORT"):
        preflight(BOTH)


@needs_ssh
def test_what_a_login_prints_is_not_taken_for_an_answer(other: OtherMachine) -> None:
    with (other.folder / "environment").open("a") as file:
        file.write('echo "Welcome!"; echo "{}"; echo complaint >&2\n')
    assert preflight(BOTH).problems == ()


def test_this_machine_comes_first() -> None:
    for hosts, words in (
        (("gpu1", "gpu2"), "not the first"),
        (("gpu1", "localhost"), "not the first"),
        (("localhost", socket.gethostname()), "the same machine"),
        (("localhost", "-F/etc/passwd"), "no name of a host"),
    ):
        (problem,) = preflight(hosts).problems
        assert words in problem.message


def test_releases_have_to_be_equal_and_builds_need_not() -> None:
    ours = {"python": "3.11.7", "traindeck": "0.1.0", "torch": "2.9.0+cu126"}
    assert version_findings("b", ours, ours) == ([], [])
    wrong, odd = version_findings("b", {"python": "3.11.2", "traindeck": "0.1.0", "torch": "2.9.0+cu128"}, ours)
    assert (wrong, len(odd)) == ([], 2)
    wrong, odd = version_findings("b", {"python": "3.12.7", "traindeck": "0.2.0", "torch": None}, ours)
    assert [problem.message.partition(" ")[2].split()[0] for problem in wrong] == ["python", "traindeck", "torch"]
    assert "not installed" in wrong[2].message


def test_clocks_are_told_and_refused() -> None:
    assert clock_findings("b", -1.9) == clock_findings("b", None) == ([], [])
    assert "ahead" in clock_findings("b", 3.0)[1][0].message
    assert clock_findings("b", -61.0)[0][0].hint


def test_devices_that_are_there_but_broken_are_named() -> None:
    gpus = Layout(**{**_fields(CPU), "accelerator": "cuda", "device_indices": (0, 1)})
    devices = [Device(index=0, kind="cuda"), Device(index=1, kind="cuda", problem="lost from the bus")]
    (problem,) = device_findings("b", devices, gpus)[0]
    assert "cuda device 1 is wanted" in problem.message
    assert "lost from the bus" in problem.message
    many = Layout(**{**_fields(CPU), "device_indices": (0, 1, 2)})
    assert device_findings("b", [Device(index=0, kind="cpu", slots=2)], many)[1]


def test_another_machine_with_the_same_address_is_noticed() -> None:
    with Listener() as listener:
        assert knock("127.0.0.1", listener.port, listener.greeting) is None
        assert knock("127.0.0.1", listener.port, "0" * 16) == "another machine answers there"
    assert knock("127.0.0.1", listener.port, listener.greeting) == "Connection refused"


def test_an_answer_needs_no_more_than_its_words() -> None:
    facts = Facts(time=0.0, devices=(), cpu_cores=1, home=None)
    assert (facts.missing, facts.reached) == ((), {})


def _fields(layout: Layout) -> dict[str, object]:
    return {name: getattr(layout, name) for name in layout.__struct_fields__}
