"""Bytes that are no text in the small files of a run: as good as absent."""

from __future__ import annotations

import time
from collections.abc import Callable

from engine.contract.rundir import RunDirectory
from engine.runs.failure import Attempt, explain_training
from engine.runs.liveness import lost_because, read_identity
from engine.runs.processes import Known, folder_of, read_ranks

DAMAGED = b'{"title": "\xff", "rank": 0, "pid": 1}'


def test_damaged_records_are_absent(new_run: Callable[[], RunDirectory]) -> None:
    run = new_run()
    run.supervisor.write_bytes(DAMAGED)
    folder_of(run).mkdir()
    for path in (folder_of(run) / "rank0.json", folder_of(run) / "known.json", run.error_of(0)):
        path.write_bytes(DAMAGED)
    assert read_identity(run) is None
    assert lost_because(run, time.time() - 1000) == "it was never started"
    assert read_ranks(run) == []
    assert Known(run).read() == []
    assert "exit code 7" in explain_training(run, Attempt.begin(run), 7).message
