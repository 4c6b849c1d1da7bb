"""Tiny runs under any layout, trained by real ranks that stay for many of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from engine.contract.layout import Layout
from engine.contract.plan import PlanFile
from engine.contract.presets import resolve_shape
from engine.contract.rundir import RunDirectory, RunInfo
from engine.contract.shape import ModelShape
from engine.contract.spec import RunSpec, TokenizerSpec
from engine.contract.specfile import dump_spec, parse_spec
from engine.data.prepared import PreparedLink, PreparedManifest
from engine.data.tokenizer import train_tokenizer

SEQUENCE, BATCH, VOCABULARY = 16, 16, 260
FOUR_LAYERS = (
    f"data.sequence_length={SEQUENCE}", "tokenizer.kind=bytes", "model.preset=llama-1m", "model.layers=4",
    "model.hidden=32", "model.heads=4", "model.kv_heads=4", f"model.vocabulary={VOCABULARY}",
    f"optim.batch_size={BATCH}", "optim.warmup_steps=4", "optim.clip_norm=0.5", "budget.max_steps=20",
    "evaluation.every_steps=none", "evaluation.max_batches=2", "evaluation.sample_tokens=0",
    "checkpoint.every_steps=10", "checkpoint.keep_last=3",
)  # fmt: skip


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> PreparedLink:
    """Prepared data: bytes with enough order in them to be learnt from."""
    folder = tmp_path_factory.mktemp("text")
    generator = np.random.default_rng(0)
    words = [bytes(generator.integers(97, 123, size=size, dtype=np.uint8)) for size in generator.integers(1, 8, 200)]
    whole = b" ".join(words[number] for number in generator.zipf(1.3, 9000) % 200)
    cut = len(whole) * 9 // 10
    for name, part in (("train.bin", whole[:cut]), ("validation.bin", whole[cut:])):
        np.frombuffer(part, dtype=np.uint8).astype("<u2").tofile(folder / name)
    train_tokenizer(TokenizerSpec(kind="bytes"), []).save(str(folder / "tokenizer.json"))
    manifest = PreparedManifest(
        fingerprint="made-up", source="made up", documents=1, bytes=len(whole), vocabulary=257, train_tokens=cut,
        validation_tokens=len(whole) - cut, train_bytes=cut, validation_bytes=len(whole) - cut, unknown_rate=None,
        dtype="uint16", eos_id=256, files={path.name: path.stat().st_size for path in folder.iterdir()},
    )  # fmt: skip
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return PreparedLink(directory=str(folder), fingerprint="made-up")


MakeRun = Callable[..., RunDirectory]


@pytest.fixture
def make_run(tmp_path: Path, text: PreparedLink) -> MakeRun:
    """``make_run(layout, *overrides)``: the directory of a new run under ``layout``."""

    def make(layout: Layout, *overrides: str) -> RunDirectory:
        number = sum(1 for path in tmp_path.iterdir() if path.name.startswith("run-"))
        run = RunDirectory(tmp_path / f"run-{number}")
        run.events.mkdir(parents=True)
        info = RunInfo(id=run.id, name="tiny", created=time.time(), host="here", version="0")
        run.info.write_bytes(msgspec.json.encode(info))
        run.prepared.write_bytes(msgspec.json.encode(text))
        run.spec.write_text(dump_spec(spec_of(*overrides)))
        use_layout(run, layout)
        return run

    return make


def spec_of(*overrides: str) -> RunSpec:
    return parse_spec("", [*FOUR_LAYERS, *overrides])


def shape_of(*overrides: str) -> ModelShape:
    return resolve_shape(spec_of(*overrides).model, vocabulary=VOCABULARY, sequence_length=SEQUENCE)


def use_layout(run: RunDirectory, layout: Layout) -> None:
    """Let the next start of ``run`` be under ``layout``."""
    run.plan.write_bytes(msgspec.json.encode(PlanFile(layout=layout)))


def alone(micro_batch: int = 8) -> Layout:
    """One rank that accumulates."""
    return Layout(
        strategy="single", accelerator="cpu", device_indices=(0,), micro_batch=micro_batch,
        accumulation=BATCH // micro_batch, precision="fp32", threads_per_worker=1,
    )  # fmt: skip


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows under each other, the columns as wide as they need to be."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
