"""Records are whole or absent, whatever lies on the disk."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.contract.durable import write_durably
from engine.contract.records import decode_record, read_record
from engine.contract.rundir import RunInfo

INFO = RunInfo(id="a", name="a", created=1.0, host="h", version="1")


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_durably(path, msgspec.json.encode(INFO))
    assert read_record(path, RunInfo) == INFO
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path], "nothing temporary is left"


@pytest.mark.parametrize(
    "text", [b"", b"{", b'{"id": "\xff"}', b'{"id": 3}', b"[" * 100_000, b"null", b'{"id":"a"}', b"\xff\xfe"]
)
def test_damage_is_absence(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(text)
    assert read_record(path, RunInfo) is None


def test_what_is_no_file_is_absent(tmp_path: Path) -> None:
    assert read_record(tmp_path, RunInfo) is None
    assert read_record(tmp_path / "none", RunInfo) is None


@given(st.binary(max_size=200))
def test_no_bytes_raise(text: bytes) -> None:
    assert isinstance(decode_record(text, RunInfo), RunInfo | None)
