from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine.contract.errors import TraindeckError
from engine.runs.storage import open_registry, read_registry


def _insert(name: str) -> None:
    with open_registry() as registry:
        registry.profiles.insert({"name": name, "toml": ""})


def _names() -> set[str]:
    return {str(record["name"]) for record in read_registry().profiles.all()}


def test_what_is_inserted_is_there_privately(home: Path) -> None:
    _insert("one")
    _insert("two")
    assert _names() == {"one", "two"}
    for file in home.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file


def test_raising_writes_nothing() -> None:
    _insert("one")

    def insert_and_fail() -> None:
        with open_registry() as registry:
            registry.profiles.insert({"name": "two", "toml": ""})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        insert_and_fail()
    assert _names() == {"one"}


def test_a_reading_transaction_does_not_write(home: Path) -> None:
    _insert("one")
    before = (home / "registry.json").stat()
    with open_registry() as registry:
        registry.profiles.all()
    assert (home / "registry.json").stat().st_ino == before.st_ino


WRITER = """
import sys
from engine.runs.storage import open_registry
for number in range(15):
    with open_registry() as registry:
        registry.profiles.insert({"name": f"{sys.argv[1]}-{number}", "toml": ""})
"""


def test_several_processes_lose_nothing() -> None:
    writers = [subprocess.Popen([sys.executable, "-P", "-c", WRITER, str(number)]) for number in range(4)]
    seen: set[str] = set()
    while any(writer.poll() is None for writer in writers):
        now = _names()  # a reader beside the writers always sees a whole file, and never less than before
        assert seen <= now
        seen = now
    assert [writer.wait() for writer in writers] == [0, 0, 0, 0]
    assert _names() == {f"{writer}-{number}" for writer in range(4) for number in range(15)}


@pytest.mark.parametrize("damage", [b"", b'{"profiles": {"1"', b"[1, 2]", b"\xff\xfe", b'{"profiles": {}}'])
def test_damaged_file_gives_way_to_the_backup(home: Path, damage: bytes) -> None:
    _insert("one")
    _insert("two")
    (home / "registry.json").write_bytes(damage)
    registry = read_registry()
    assert [record["name"] for record in registry.profiles.all()] == ["one"]
    assert "backup" in registry.warnings[0]
    _insert("three")
    assert _names() == {"one", "three"}
    assert read_registry().warnings == []
    kept = list(home.glob("registry.json.damaged-*"))
    assert [file.read_bytes() for file in kept] == [damage]


def test_missing_file_gives_way_to_the_backup(home: Path) -> None:
    _insert("one")
    _insert("two")
    (home / "registry.json").unlink()
    assert _names() == {"one"}
    _insert("three")
    assert _names() == {"one", "three"}


def test_both_damaged_changes_nothing(home: Path) -> None:
    _insert("one")
    _insert("two")
    for name in ("registry.json", "registry.json.bak"):
        (home / name).write_bytes(b"gone")
    with pytest.raises(TraindeckError, match="move it") as caught:
        _insert("three")
    assert "Runs are not affected" in caught.value.hint
    assert (home / "registry.json").read_bytes() == (home / "registry.json.bak").read_bytes() == b"gone"


def test_newer_schema_is_left_alone(home: Path) -> None:
    _insert("one")
    content = json.loads((home / "registry.json").read_text())
    content["traindeck"]["1"]["schema"] = 99
    (home / "registry.json").write_text(json.dumps(content))
    with pytest.raises(TraindeckError, match="newer"):
        _insert("two")
    assert json.loads((home / "registry.json").read_text()) == content
