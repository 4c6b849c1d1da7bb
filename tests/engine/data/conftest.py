"""What the tests of this room share: specs, preparing them, and the command in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.contract.events import Event
from engine.contract.spec import RunSpec
from engine.contract.specfile import build_spec, dump_spec
from engine.data.prepare import prepare
from engine.data.prepared import PreparedData, open_prepared


def make_spec(source: object, tokenizer: dict[str, Any] | None = None, **data: Any) -> RunSpec:
    """A spec for ``source`` with short sequences, bytes for tokens unless another tokenizer is given."""
    return build_spec(
        {
            "data": {"source": str(source), "sequence_length": 8, **data},
            "tokenizer": tokenizer or {"kind": "bytes"},
            "budget": {"max_steps": 1},
        }
    )


class Prepared:
    """Prepares specs in this process and keeps the events."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.events: list[Event] = []

    def __call__(self, spec: RunSpec, **options: Any) -> PreparedData:
        self.events = []
        return open_prepared(prepare(spec, self.cache, self.events.append, workers=2, **options))


@pytest.fixture
def prepared(home: Path) -> Prepared:
    return Prepared(home / "data")


@pytest.fixture
def spec_for() -> Callable[..., RunSpec]:
    return make_spec


def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """``python -P -m engine.data`` with ``arguments``, both outputs in pipes."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "engine.data", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **options.pop("env", {})},
        **options,
    )


@pytest.fixture
def command() -> Callable[..., subprocess.Popen[str]]:
    return start


@pytest.fixture
def write_spec(tmp_path: Path) -> Callable[[RunSpec], Path]:
    def write(spec: RunSpec) -> Path:
        path = tmp_path / "spec.toml"
        path.write_text(dump_spec(spec))
        return path

    return write


def texts_of(data: PreparedData, tokens: Any) -> list[str]:
    """The documents in ``tokens``, decoded."""
    eos = data.manifest.eos_id
    documents: list[list[int]] = [[]]
    for token in tokens.tolist():
        if token == eos:
            documents.append([])
        else:
            documents[-1].append(token)
    assert documents.pop() == []
    return [data.tokenizer.decode(document, skip_special_tokens=False) for document in documents]


@pytest.fixture
def decoded() -> Callable[[PreparedData], tuple[list[str], list[str]]]:
    """Training and validation documents as text."""
    return lambda data: (texts_of(data, data.train), texts_of(data, data.validation))
