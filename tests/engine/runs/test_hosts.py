"""The hosts of a run by their names: which is where, what is run on each, and what ssh's complaints mean."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from engine.contract.errors import TraindeckError
from engine.contract.hosts import file_stem, host_problems
from engine.contract.layout import Layout
from engine.hardware.host import host_name
from engine.hardware.network import interface_towards, own_addresses
from engine.runs.command import host_commands, training_command, training_environment
from engine.runs.hosts import Place, host_of, is_here, node_count, other_hosts, pythons_of, ranks_per_host
from engine.runs.ssh import Connection, ssh_command, unreachable

TWO = Layout(
    strategy="ddp", accelerator="cpu", device_indices=(0, 1), hosts=("localhost", "gpu2"), dp_replicate=4,
    micro_batch=1, accumulation=1, precision="fp32",
)  # fmt: skip


def _value(command: list[str], option: str) -> str:
    return command[command.index(option) + 1]


def test_ranks_go_through_the_hosts_in_order() -> None:
    assert (node_count(TWO), ranks_per_host(TWO), other_hosts(TWO)) == (2, 2, {1: "gpu2"})
    assert [host_of(TWO, rank) for rank in range(4)] == ["localhost", "localhost", "gpu2", "gpu2"]
    assert is_here(host_name())
    assert not is_here("gpu2")


def test_each_host_has_its_own_torchrun_command() -> None:
    place = Place(node=1, address="10.0.0.1", port=29400, run="small-1")
    command = training_command(TWO, "/runs/x", ["guard", "--"], place)
    assert (_value(command, "--nnodes"), _value(command, "--nproc-per-node")) == ("2", "2")
    assert (_value(command, "--node-rank"), _value(command, "--rdzv-endpoint")) == ("1", "10.0.0.1:29400")
    assert (_value(command, "--rdzv-backend"), _value(command, "--rdzv-id")) == ("static", "small-1")
    assert command.index("guard") < command.index("engine.training")
    here, there = host_commands(TWO).values()
    assert [_value(command, "--node-rank") for command in (here[-1], there[-1])] == ["0", "1"]
    assert _value(here[0], "--rdzv-endpoint") == "ADDRESS:PORT"
    assert len(here) == 1
    assert there[0][0] == "ssh"
    assert there[0][-2:] == ["gpu2", f"{sys.executable} -P -m engine.runs.node"]
    assert Place(node=0, address="fd00::1", port=1).endpoint == "[fd00::1]:1"


def test_gloo_is_told_which_interface_leads_to_the_first_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    loopback = interface_towards("127.0.0.1")
    assert loopback is not None
    assert loopback.startswith("lo")
    place = Place(node=1, address="127.0.0.1", port=1, run="x")
    assert training_environment(TWO, (), place)["GLOO_SOCKET_IFNAME"] == loopback
    assert "GLOO_SOCKET_IFNAME" not in training_environment(TWO)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    assert "GLOO_SOCKET_IFNAME" not in training_environment(TWO, (), place)
    assert "127.0.0.1" not in own_addresses()
    assert interface_towards("no-such-host.invalid") is None


def test_what_the_far_shell_gets_comes_out_as_it_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["a b", "$HOME", "'", '"; rm -rf /', "*", "\\", ""]
    show = [sys.executable, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))", *words]
    monkeypatch.setenv("TRAINDECK_SSH", "ssh -F '/a folder/config'")
    command = ssh_command("me@gpu2", show)
    assert command[:3] == ["ssh", "-F", "/a folder/config"]
    assert command[-3:-1] == ["--", "me@gpu2"]
    assert "BatchMode=yes" in command
    done = subprocess.run(["/bin/sh", "-c", command[-1]], capture_output=True, check=True)
    assert json.loads(done.stdout) == words


def test_the_python_of_a_host_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRAINDECK_REMOTE_PYTHON", raising=False)
    assert pythons_of("gpu2") == [sys.executable]
    monkeypatch.setenv("TRAINDECK_REMOTE_PYTHON", "/opt/python gpu3='/the third/python'")
    assert (pythons_of("gpu2"), pythons_of("gpu3")) == (["/opt/python"], ["/the third/python"])
    monkeypatch.setenv("TRAINDECK_REMOTE_PYTHON", "'/opt")
    with pytest.raises(TraindeckError, match="TRAINDECK_REMOTE_PYTHON"):
        pythons_of("gpu2")


@pytest.mark.parametrize(
    ("hosts", "word"),
    [
        ([], "empty"),
        (["localhost", "-oProxyCommand=touch /tmp/x"], "no name of a host"),
        (["localhost", "a b"], "no name of a host"),
        (["localhost", "gpu2", "gpu2"], "named 2 times"),
    ],
)
def test_names_that_cannot_be_hosts(hosts: list[str], word: str) -> None:
    assert any(word in problem.message for problem in host_problems(hosts))


def test_names_that_can() -> None:
    names = ["localhost", "me@gpu-2.example.org", "10.0.0.7", "fe80::1%eth0", "node_3"]
    assert not list(host_problems(names))
    stems = [file_stem(name) for name in names]
    assert (stems[0], stems[2], stems[4]) == ("localhost", "10.0.0.7", "node_3")
    assert stems[1].startswith("me_gpu-2.example.org-")
    assert stems[3].startswith("fe80__1_eth0-")


def test_no_two_hosts_share_a_file_and_no_name_is_too_long_for_one() -> None:
    assert len({file_stem(name) for name in ("me@gpu2", "me_gpu2", "me:gpu2")}) == 3
    longest = "g" * 253
    assert not list(host_problems([longest]))
    assert len(f"{file_stem(longest)}.jsonl") <= 255
    assert file_stem(longest) != file_stem(f"{longest[:-1]}h")


@pytest.mark.parametrize(
    ("said", "message", "remedy"),
    [
        ("ssh: connect to host gpu2 port 22: Connection timed out", "does not answer", "switched on"),
        ("Connection timed out during banner exchange", "does not answer", "switched on"),
        ("ssh: connect to host gpu2 port 22: Connection refused", "no ssh server", "sshd"),
        ("gpu2: Permission denied (publickey,password).", "no key of yours", "ssh-copy-id gpu2"),
        ("Host key verification failed.", "not known here", "accept the key: ssh gpu2"),
        ("@ REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.", "is not the one", "-R"),
        ("ssh: Could not resolve hostname gpu2: Name or service not known", "no machine of this name", "spelling"),
        ("Bad owner or permissions on /home/me/.ssh/config", "its configuration", ""),
        ("kex_exchange_identification: Connection closed by remote host", "closed the connection", "ssh gpu2"),
        ("something new", "something new", "ssh gpu2"),
    ],
)
def test_complaints_of_ssh_in_words(said: str, message: str, remedy: str) -> None:
    problem = unreachable("gpu2", 255, said.split("\n"))
    assert problem.message.startswith("gpu2: ")
    assert message in problem.message
    assert remedy in problem.hint


def test_a_connection_that_ends_is_noticed_when_all_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINDECK_SSH", f"{sys.executable} -c 'print(1); print(2); import sys; sys.exit(\"bye\")'")
    line = Connection("gpu2", ["nothing"])
    while line.poll() is None:
        pass
    assert [text.strip() for text in line.lines()] == [b"1", b"2"]
    assert list(line.complaints) == ["bye"]
    assert line.send(b"too late") is False
    line.kill()
