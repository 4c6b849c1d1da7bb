"""Deleting: of a link the link alone."""

from __future__ import annotations

from pathlib import Path

import msgspec

from engine.contract.rundir import RunDirectory, RunInfo
from engine.runs.home import runs_folder
from engine.runs.remove import delete_run


def test_of_a_link_only_the_link_is_deleted(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "events").mkdir(parents=True)
    info = RunInfo(id="elsewhere", name="a", created=1.0, host="h", version="1")
    (elsewhere / "run.json").write_bytes(msgspec.json.encode(info))
    (elsewhere / "events" / "supervisor.jsonl").write_text(
        '{"kind":"state","schema":1,"seq":0,"time":1.0,"step":null,"state":"finished","reason":""}\n'
    )
    link = runs_folder() / "link"
    link.symlink_to(elsewhere)
    delete_run(RunDirectory(link))
    assert not link.is_symlink()
    assert (elsewhere / "run.json").is_file()
    assert list(runs_folder().iterdir()) == []
