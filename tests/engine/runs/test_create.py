from __future__ import annotations

import resource
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from engine.contract.errors import RunError, SpecError
from engine.contract.layout import Layout
from engine.contract.plan import read_plan
from engine.contract.rundir import RunDirectory, RunInfo
from engine.contract.spec import BudgetSpec, DataSpec, RunSpec, TokenizerSpec
from engine.contract.specfile import read_spec

NewRun = Callable[..., RunDirectory]


def test_directory_is_complete_and_private(new_run: NewRun, home: Path) -> None:
    run = new_run("My Größe nô")
    assert run.id.startswith("my-groe-no-")
    assert run.path.parent == home / "runs"
    info = msgspec.json.decode(run.info.read_bytes(), type=RunInfo)
    assert (info.id, info.name) == (run.id, "My Größe nô")
    assert read_spec(run.spec).name == "My Größe nô"
    plan = read_plan(run)
    assert plan is not None
    assert isinstance(plan.layout, Layout)
    for path in (run.path, *run.path.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_names_without_ascii_and_equal_names_get_ids(new_run: NewRun) -> None:
    runs = [new_run("模型") for _ in range(5)]
    assert len({run.id for run in runs}) == 5
    assert all(run.id.startswith("run-") for run in runs)


def test_relative_paths_become_absolute(new_run: NewRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("text")
    (tmp_path / "tokenizer.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    spec = RunSpec(
        data=DataSpec(source="texts"),
        tokenizer=TokenizerSpec(kind="file", file="tokenizer.json"),
        budget=BudgetSpec(max_steps=3),
    )
    written = read_spec(new_run(spec=spec).spec)
    assert written.data.source == str(tmp_path / "texts")
    assert written.tokenizer.file == str(tmp_path / "tokenizer.json")


def test_a_spec_with_problems_makes_no_run(new_run: NewRun, home: Path) -> None:
    with pytest.raises(SpecError, match="seed"):
        new_run(spec=RunSpec(seed=-1))
    assert not (home / "runs").exists() or not list((home / "runs").iterdir())


def test_a_disk_that_takes_no_more_leaves_nothing(new_run: NewRun, home: Path) -> None:
    new_run()
    before = sorted(home.rglob("*"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(RunError, match="not created"):
            new_run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert sorted(home.rglob("*")) == before
