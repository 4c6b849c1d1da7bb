from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.contract.rundir import RunDirectory, checkpoint_folders, complete_checkpoints


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_checkpoint_that_may_not_be_read_is_not_complete(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for step in (1, 2):
        folder = run.checkpoints / f"step-{step}"
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
    (run.checkpoints / "step-2").chmod(0)
    try:
        assert [folder.name for folder in complete_checkpoints(run)] == ["step-1"]
        assert [folder.name for folder in checkpoint_folders(run)] == ["step-1", "step-2"]
    finally:
        (run.checkpoints / "step-2").chmod(0o700)
