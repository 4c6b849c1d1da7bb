"""Datasets of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from engine.contract.errors import DataError
from engine.contract.events import Event
from engine.contract.source import SourceKind
from engine.contract.spec import DataSpec


def fetch(data: DataSpec, cache: Path, report: Callable[[Event], None]) -> tuple[SourceKind, list[Path]]:
    """The files that hold the dataset, fetched if need be, and how they are read."""
    raise DataError("The hub cannot be reached", data.source, "")
