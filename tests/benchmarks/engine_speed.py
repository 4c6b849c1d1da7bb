"""Our training loop against a bare PyTorch loop: the same network, batches and optimiser, tokens per second.

Both take turns step by step in one process, the order swapped each round, so that whatever else the machine does
meets both alike. Ours is the real loop with its events, requests and clocks; the bare one does nothing but train.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch.nn import functional

from engine.contract.layout import Layout
from engine.contract.presets import resolve_shape
from engine.contract.rundir import RunDirectory
from engine.contract.spec import BudgetSpec, CheckpointSpec, DataSpec, EvaluationSpec, ModelSpec, OptimSpec, RunSpec
from engine.data.batches import Batches
from engine.data.prepared import PreparedData, PreparedManifest
from engine.model.build import build_model
from engine.training.inputs import Inputs
from engine.training.loop import run_steps
from engine.training.optimiser import parameter_groups
from engine.training.reporter import Reporter
from engine.training.session import Session
from engine.training.setup import open_session
from tests.benchmarks.machine import store

VOCABULARY = 4096
BATCH, LENGTH = 4, 256
SPEC = RunSpec(
    name="engine-speed",
    data=DataSpec(sequence_length=LENGTH),
    model=ModelSpec(preset="llama-10m"),
    optim=OptimSpec(batch_size=BATCH, lr=1e-4, schedule="constant", warmup_steps=0),
    budget=BudgetSpec(max_steps=1_000_000),
    evaluation=EvaluationSpec(every_steps=None),
    checkpoint=CheckpointSpec(every_steps=None),
)


def prepared(folder: Path) -> PreparedData:
    """Tokens drawn with the frequencies of a language (Zipf): what they say does not change the speed."""
    tokens = np.minimum(np.random.default_rng(0).zipf(1.2, 2_000_000), VOCABULARY) - 1
    for name in ("train.bin", "validation.bin"):
        if (folder / name).exists():
            continue
        tokens.astype("<u2").tofile(folder / name)
    count = len(tokens)
    manifest = PreparedManifest(
        fingerprint="", source="", documents=1, bytes=count, vocabulary=VOCABULARY, train_tokens=count,
        validation_tokens=count, train_bytes=count, validation_bytes=count, unknown_rate=None, dtype="uint16",
        eos_id=None, files={},
    )  # fmt: skip
    return PreparedData(folder, manifest)


def our_session(folder: Path) -> Session:
    """The training as a run has it, events included."""
    run = RunDirectory(folder / "run")
    run.path.mkdir()
    data = prepared(folder)
    layout = Layout(
        strategy="single", accelerator="cpu", device_indices=(0,), micro_batch=BATCH, accumulation=1, precision="fp32"
    )
    shape = resolve_shape(SPEC.model, vocabulary=VOCABULARY, sequence_length=LENGTH)
    inputs = Inputs(run=run, spec=SPEC, layout=layout, data=data, shape=shape)
    return open_session(inputs, Reporter(run, 0), None, time.time())


class BareLoop:
    """What one would write by hand."""

    def __init__(self, inputs: Inputs) -> None:
        optim = SPEC.optim
        self.model = build_model(inputs.shape, seed=SPEC.seed)
        self.optimiser = torch.optim.AdamW(
            parameter_groups(self.model, optim.weight_decay), lr=optim.lr, betas=(optim.beta1, optim.beta2), fused=True
        )
        self.batches = Batches(inputs.data.train, LENGTH, SPEC.seed)
        self.step = 0
        self.loss = 0.0

    def train_step(self) -> None:
        """One update."""
        rows = torch.from_numpy(self.batches.batch(range(self.step * BATCH, (self.step + 1) * BATCH)))
        logits = self.model(rows[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), SPEC.optim.clip_norm or 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self.loss = loss.item()


def our_step(session: Session) -> None:
    """One update by the real loop."""
    session.budget = replace(session.budget, max_steps=session.step + 1)
    run_steps(session)


def measure(rounds: int) -> dict[str, object]:
    """Median step seconds of both, and the ratio of their tokens per second."""
    with tempfile.TemporaryDirectory() as folder:
        session = our_session(Path(folder))
        bare = BareLoop(session.inputs)
        seconds: dict[str, list[float]] = {"ours": [], "bare": []}
        cpu_seconds: dict[str, float] = {"ours": 0.0, "bare": 0.0}
        turns = [("ours", lambda: our_step(session)), ("bare", bare.train_step)]
        for number in range(rounds + 2):
            for name, step in turns if number % 2 else reversed(turns):
                begin, cpu_begin = time.perf_counter(), time.process_time()
                step()
                if number >= 2:  # the first ones warm up
                    seconds[name].append(time.perf_counter() - begin)
                    cpu_seconds[name] += time.process_time() - cpu_begin
        last = msgspec.json.decode((session.inputs.run.events_of("rank0")).read_bytes().splitlines()[-1])
    assert abs(last["loss"] - bare.loss) < 1e-3, "the two loops do not train the same"
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "parameters": sum(parameter.numel() for parameter in session.network.parts[0].parameters()),
        "tokens_per_step": BATCH * LENGTH,
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "torch": torch.__version__,
        "tokens_per_second": {name: round(BATCH * LENGTH / median, 1) for name, median in medians.items()},
        "ratio": round(medians["bare"] / medians["ours"], 4),
        "ratio_of_pairs": round(
            statistics.median(b / o for b, o in zip(seconds["bare"], seconds["ours"], strict=True)), 4
        ),
        "ratio_of_cpu_seconds": round(cpu_seconds["bare"] / cpu_seconds["ours"], 4),
    }


def main() -> None:
    """Print and store the figures."""
    parser = argparse.ArgumentParser(description="our loop against a bare PyTorch loop")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, help="all cores when left out")
    arguments = parser.parse_args()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    figures = measure(arguments.rounds)
    for name, value in figures.items():
        print(f"{name:20} {value}")
    print(f"stored in {store('engine_speed', figures)}")


if __name__ == "__main__":
    main()
