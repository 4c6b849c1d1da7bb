"""Tiny runs on real text, and the processes that train them."""

from __future__ import annotations

import argparse as some_module
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from engine.contract.events import AnyEvent
from engine.contract.journal import EventReader
from engine.contract.layout import Layout
from engine.contract.rundir import RunDirectory, RunInfo
from engine.contract.spec import RunSpec, TokenizerSpec
from engine.contract.specfile import dump_spec, parse_spec
from engine.data.prepared import PreparedLink, PreparedManifest
from engine.data.tokenizer import train_tokenizer
from engine.training import setup
from engine.training.inputs import read_inputs
from engine.training.reporter import Reporter
from engine.training.session import Session

TINY = (
    "data.sequence_length=32", "tokenizer.kind=bytes", "model.preset=llama-1m", "model.layers=2", "model.hidden=32",
    "model.heads=2", "model.kv_heads=1", "optim.batch_size=8", "optim.warmup_steps=4", "budget.max_steps=6",
    "evaluation.every_steps=none", "evaluation.max_batches=2", "evaluation.sample_tokens=0",
    "checkpoint.every_steps=none",
)  # fmt: skip


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedLink:
    """The source of a standard module as bytes, its tail held out."""
    folder = tmp_path_factory.mktemp("prepared")
    text = Path(str(some_module.__file__)).read_bytes()
    cut = len(text) * 9 // 10
    np.frombuffer(text[:cut], dtype=np.uint8).astype("<u2").tofile(folder / "train.bin")
    np.frombuffer(text[cut:], dtype=np.uint8).astype("<u2").tofile(folder / "validation.bin")
    train_tokenizer(TokenizerSpec(kind="bytes"), []).save(str(folder / "tokenizer.json"))
    manifest = PreparedManifest(
        fingerprint="of-the-tests", source="a standard module", documents=1, bytes=len(text), vocabulary=257,
        train_tokens=cut, validation_tokens=len(text) - cut, train_bytes=cut, validation_bytes=len(text) - cut,
        unknown_rate=None, dtype="uint16", eos_id=256,
        files={path.name: path.stat().st_size for path in folder.iterdir()},
    )  # fmt: skip
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return PreparedLink(directory=str(folder), fingerprint="of-the-tests")


MakeRun = Callable[..., RunDirectory]


@pytest.fixture
def make_run(tmp_path: Path, prepared: PreparedLink) -> MakeRun:
    """``make_run(*overrides, ranks=1, accumulation=1)``: the directory of a new tiny run."""

    def make(*overrides: str, ranks: int = 1, accumulation: int = 1) -> RunDirectory:
        spec = parse_spec("", [*TINY, *overrides])
        number = sum(1 for path in tmp_path.iterdir() if path.name.startswith("run-"))
        run = RunDirectory(tmp_path / f"run-{number}")
        run.events.mkdir(parents=True)
        info = RunInfo(id=run.id, name="tiny", created=time.time(), host="here", version="0")
        run.info.write_bytes(msgspec.json.encode(info))
        run.prepared.write_bytes(msgspec.json.encode(prepared))
        write_spec(run, spec, ranks, accumulation)
        return run

    return make


def write_spec(run: RunDirectory, spec: RunSpec, ranks: int = 1, accumulation: int = 1) -> None:
    run.spec.write_text(dump_spec(spec))
    batch = spec.optim.batch_size
    assert batch is not None
    layout = Layout(
        strategy="ddp" if ranks > 1 else "single", accelerator="cpu", device_indices=tuple(range(ranks)),
        dp_replicate=ranks, micro_batch=batch // ranks // accumulation, accumulation=accumulation,
        precision=spec.layout.precision, threads_per_worker=1,
    )  # fmt: skip
    run.plan.write_bytes(msgspec.json.encode({"layout": layout}))


@pytest.fixture
def change_spec() -> Callable[[RunDirectory, Sequence[str]], None]:
    """``change_spec(run, overrides)``: what a person edits between two starts of a run."""

    def change(run: RunDirectory, overrides: Sequence[str]) -> None:
        write_spec(run, parse_spec(run.spec.read_text(), overrides))

    return change


@pytest.fixture
def open_session() -> Callable[[RunDirectory], Session]:
    """``open_session(run)``: started or resumed in this very process, ready for the loop."""

    def start(run: RunDirectory) -> Session:
        session = setup.open_session(read_inputs(run), Reporter(run, 0), None, time.time())
        setup.tell_start(session, setup.resume(session))
        return session

    return start


Events = Callable[..., list[AnyEvent]]


@pytest.fixture
def events_of() -> Events:
    """``events_of(run, kind, source="rank0")``: the events of a kind so far."""

    def read(run: RunDirectory, kind: type, source: str = "rank0") -> list[AnyEvent]:
        return [event for event in EventReader(run.events_of(source)).read_all() if isinstance(event, kind)]

    return read


StartWorker = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start_worker() -> Iterator[StartWorker]:
    """``start_worker(run, ranks=1)``: real worker processes, under torchrun where there are several."""
    started: list[subprocess.Popen[str]] = []

    def start(run: RunDirectory, ranks: int = 1, **options: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-P", "-m", "engine.training", "--run-dir", str(run.path)]
        if ranks > 1:
            launcher = ["-P", "-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node", str(ranks)]
            rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--no-python"]
            command = [sys.executable, *launcher, *rendezvous, *command]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with run.log.open("a") as log:
            process = subprocess.Popen(  # type: ignore[call-overload]  # options are Popen's own
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, text=True, **options
            )
        started.append(process)
        return process  # type: ignore[no-any-return]  # as above

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture
def until() -> Callable[[Callable[[], object]], None]:
    """``until(condition)``: wait for it, at most two minutes."""

    def wait(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < deadline, "it never came true"
            time.sleep(0.02)

    return wait
