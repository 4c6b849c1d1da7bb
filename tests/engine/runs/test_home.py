from __future__ import annotations

import stat
from pathlib import Path

import pytest

from engine.contract.errors import TraindeckError
from engine.runs.home import data_cache, home, runs_folder


def test_folders_are_private(home: Path) -> None:
    assert runs_folder() == home / "runs"
    assert data_cache() == home / "data"
    for folder in (home, home / "runs", home / "data"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_relative_home_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAINDECK_HOME", "mine")
    assert home() == tmp_path / "mine"


def test_without_the_variable_the_platform_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRAINDECK_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    assert home().is_relative_to(tmp_path)
    assert home().name == "traindeck"


def test_unusable_home_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file/below", Path("/proc/nowhere")):
        monkeypatch.setenv("TRAINDECK_HOME", str(place))
        with pytest.raises(TraindeckError, match="TRAINDECK_HOME"):
            runs_folder()
