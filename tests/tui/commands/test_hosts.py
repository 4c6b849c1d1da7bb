"""``hosts``, and what ``train`` says of several machines; the second is played on this one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.other_machine.fixture import NAME, WHY_NOT, OtherMachine, other_machine

Call = Callable[..., Any]
needs_ssh = pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or "")
TWO = ("--set", f'layout.hosts=["localhost", "{NAME}"]', "--set", "layout.devices=1")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OtherMachine]:
    with other_machine(tmp_path_factory.mktemp("other") / "machine") as machine, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAINDECK_SSH", machine.ssh)
        for name in ("MASTER_ADDR", "MASTER_PORT", "TRAINDECK_REMOTE_PYTHON"):
            patch.delenv(name, raising=False)
        yield machine


@needs_ssh
def test_hosts_shows_each_host_and_where_they_meet(call: Call, other: OtherMachine) -> None:
    done = call("hosts", NAME)
    assert done.code == 0, done.out
    lines = done.out.splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [["localhost", "ok"], [NAME, "ok"]]
    assert any(line.startswith("ok       they meet at ") for line in lines)
    found = call("hosts", "--json", "localhost", NAME).json
    assert found["ready"] is True
    assert found["problems"] == []
    assert [host["host"] for host in found["hosts"]] == ["localhost", NAME]
    assert found["hosts"][1]["versions"] == found["hosts"][0]["versions"]
    assert found["address"]


@needs_ssh
def test_hosts_takes_them_from_a_spec_and_checks_what_it_needs(call: Call, other: OtherMachine, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("some text\n\n" * 200)
    done = call("hosts", "--spec", "characters", *TWO, "--set", f"data.source={text}", "--json")
    assert done.code == 0, done.out
    assert [host["host"] for host in done.json["hosts"]] == ["localhost", NAME]


@needs_ssh
def test_what_is_wrong_is_told_with_its_remedy(call: Call, other: OtherMachine) -> None:
    other.pretend("lightning", "1.0")
    try:
        done = call("hosts", NAME)
        refused = call("train", "quickstart", *TWO, "--detach")
    finally:
        other.set_environment()
    assert done.code == 1
    assert f"PROBLEM  {NAME}: lightning 1.0 there, and" in done.out
    assert "install lightning" in done.out
    assert refused.code == 1
    assert "1 problem with the hosts of the run" in refused.err
    assert f"{NAME}: lightning 1.0 there" in refused.err
    assert call("runs", "--json").json == {"runs": []}, "nothing was begun"


def test_hosts_without_a_host_or_with_one_that_is_none(call: Call) -> None:
    nobody = call("hosts")
    assert nobody.code == 1
    assert "No hosts are named" in nobody.err
    option = call("hosts", "localhost", "--", "-oProxyCommand=x")
    assert option.code == 1
    assert "no name of a host" in option.out


def test_a_dry_run_shows_the_commands_of_every_host(call: Call) -> None:
    done = call("train", "quickstart", *TWO, "--dry-run", TRAINDECK_SSH="")
    assert done.code == 0, done.err
    ranks = [word for word in done.out.split() if word in {"--node-rank"}]
    assert len(ranks) == 2
    assert "--rdzv-endpoint ADDRESS:PORT" in done.out
    assert "\nssh -T -a -x -o BatchMode=yes " in done.out
    told = call("train", "quickstart", *TWO, "--dry-run", "--json").json
    assert list(told["hosts"]) == ["localhost", NAME]
    assert [len(commands) for commands in told["hosts"].values()] == [1, 2]
    assert "hosts" not in call("train", "quickstart", "--dry-run", "--json").json
