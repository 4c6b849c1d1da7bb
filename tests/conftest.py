"""What every test gets: a home of its own, and no say of the person's own settings."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """The one choice that the tests leave to a person."""
    parser.addoption(
        "--every-layout", action="store_true", help="train all layouts of four ranks, not 24 of them (5 minutes)"
    )


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``TRAINDECK_HOME`` in the test's own folder."""
    folder = tmp_path / "traindeck-home"
    monkeypatch.setenv("TRAINDECK_HOME", str(folder))
    for name in ("NO_COLOR", "TRAINDECK_ASCII", "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return folder
