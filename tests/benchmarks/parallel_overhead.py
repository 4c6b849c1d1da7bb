"""Sharded and tensor-parallel training through our strategy against the same wrapping in a bare script.

Two ranks on the CPU. Both trainings live in the same processes and take turns step by step, the order swapped each
round, so that whatever else the machine does meets both alike. Ours is the real loop with its events, requests and
clocks; the bare one wraps the same plain network with the same calls to torch and does nothing but train.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    loss_parallel,
    parallelize_module,
)
from torch.nn import functional

from engine.contract.layout import Layout
from engine.contract.presets import resolve_shape
from engine.contract.rundir import RunDirectory
from engine.contract.spec import ModelSpec
from engine.data.batches import Batches
from engine.model.build import build_model
from engine.training.inputs import Inputs
from engine.training.loop import run_steps
from engine.training.optimiser import parameter_groups
from engine.training.reporter import Reporter
from engine.training.session import Session
from engine.training.setup import open_session
from tests.benchmarks.engine_speed import BATCH, LENGTH, SPEC, VOCABULARY, prepared
from tests.benchmarks.machine import store

RANKS = 2
MODEL = ModelSpec(preset="llama-10m", heads=8, kv_heads=4)
"""Its usual five heads cannot be split."""
WRAPPINGS: dict[str, dict[str, Any]] = {
    "fsdp": {"strategy": "fsdp", "dp_shard": RANKS, "micro_batch": BATCH // RANKS},
    "tensor": {"strategy": "tensor", "tp": RANKS, "micro_batch": BATCH},
}


def our_session(folder: Path, name: str) -> Session:
    """The training as a run has it."""
    rank = int(os.environ["RANK"])
    run = RunDirectory(folder / f"run-{name}")
    run.path.mkdir(exist_ok=True)
    layout = Layout(
        accelerator="cpu", device_indices=tuple(range(RANKS)), accumulation=1, precision="fp32",
        threads_per_worker=1, **WRAPPINGS[name],
    )  # fmt: skip
    shape = resolve_shape(MODEL, vocabulary=VOCABULARY, sequence_length=LENGTH)
    inputs = Inputs(run=run, spec=SPEC, layout=layout, data=prepared(folder), shape=shape)
    return open_session(inputs, Reporter(run, rank), None, time.time())


class BareLoop:
    """What one would write by hand with torch alone."""

    def __init__(self, inputs: Inputs, name: str) -> None:
        optim = SPEC.optim
        self.name = name
        self.model = build_model(inputs.shape, seed=SPEC.seed)
        mesh = init_device_mesh("cpu", (RANKS,))
        if name == "fsdp":
            for layer in self.model.layers.values():  # type: ignore[union-attr]
                fully_shard(layer, mesh=mesh)
            fully_shard(self.model, mesh=mesh)
        else:
            _split(self.model, mesh)
        self.optimiser = torch.optim.AdamW(
            parameter_groups(self.model, optim.weight_decay), lr=optim.lr, betas=(optim.beta1, optim.beta2), fused=True
        )
        self.batches = Batches(inputs.data.train, LENGTH, SPEC.seed)
        self.step = 0
        self.loss = 0.0

    def train_step(self) -> None:
        """One update."""
        first, count = self.step * BATCH, BATCH
        if self.name == "fsdp":
            count = BATCH // RANKS
            first += distributed.get_rank() * count
        rows = torch.from_numpy(self.batches.batch(range(first, first + count)))
        if self.name == "fsdp":
            logits = self.model(rows[:, :-1])
            loss = functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
            loss.backward()
        else:
            with loss_parallel():
                logits = self.model(rows[:, :-1])
                loss = functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
                loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), SPEC.optim.clip_norm or 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self.loss = loss.item()


def _split(model: nn.Module, mesh: Any) -> None:
    """torch's own recipe for a Llama: sequence parallel between the layers, loss from split logits."""
    model.positions = torch.arange(LENGTH)  # type: ignore[assignment]
    parallelize_module(
        model,
        mesh,
        {
            "embedding": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1)),
            "norm": SequenceParallel(),
            "head": ColwiseParallel(input_layouts=Shard(1), output_layouts=Shard(-1), use_local_output=False),
        },
    )
    for layer in model.layers.values():  # type: ignore[union-attr,operator]
        parallelize_module(
            layer,
            mesh,
            {
                "attention_norm": SequenceParallel(),
                "attention": PrepareModuleInput(
                    input_layouts=(Shard(1), None, None), desired_input_layouts=(Replicate(), None, None)
                ),
                "attention.query": ColwiseParallel(),
                "attention.key": ColwiseParallel(),
                "attention.value": ColwiseParallel(),
                "attention.output": RowwiseParallel(output_layouts=Shard(1)),
                "mlp_norm": SequenceParallel(),
                "mlp": PrepareModuleInput(input_layouts=(Shard(1),), desired_input_layouts=(Replicate(),)),
                "mlp.gate": ColwiseParallel(),
                "mlp.up": ColwiseParallel(),
                "mlp.down": RowwiseParallel(output_layouts=Shard(1)),
            },
        )


def our_step(session: Session) -> None:
    """One update by the real loop."""
    session.budget = replace(session.budget, max_steps=session.step + 1)
    run_steps(session)


def measure(folder: Path, name: str, rounds: int) -> dict[str, object]:
    """Median step seconds of both, and the ratio of their tokens per second."""
    session = our_session(folder, name)
    bare = BareLoop(session.inputs, name)
    seconds: dict[str, list[float]] = {"ours": [], "bare": []}
    turns: Sequence[tuple[str, Callable[[], None]]] = [("ours", lambda: our_step(session)), ("bare", bare.train_step)]
    for number in range(rounds + 2):
        for which, step in turns if number % 2 else tuple(reversed(turns)):
            distributed.barrier()
            begin = time.perf_counter()
            step()
            if number >= 2:  # the first ones warm up
                seconds[which].append(time.perf_counter() - begin)
    medians = {which: statistics.median(values) for which, values in seconds.items()}
    pairs = [b / o for b, o in zip(seconds["bare"], seconds["ours"], strict=True)]
    return {
        "step_seconds": {which: round(median, 4) for which, median in medians.items()},
        "ratio": round(medians["bare"] / medians["ours"], 4),
        "ratio_of_pairs": round(statistics.median(pairs), 4),
        "bare_loss": bare.loss,
    }


def work(folder: Path, rounds: int) -> None:
    """One rank; the first one writes the figures."""
    figures = {name: measure(folder, name, rounds) for name in WRAPPINGS}
    if distributed.get_rank() == 0:
        (folder / "figures.json").write_bytes(msgspec.json.encode(figures))
    distributed.destroy_process_group()


def main() -> None:
    """Start the ranks, print and store the figures."""
    parser = argparse.ArgumentParser(description="sharded and tensor parallel against a bare script")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--worker", type=Path)
    arguments = parser.parse_args()
    if arguments.worker is not None:
        work(arguments.worker, arguments.rounds)
        return
    with tempfile.TemporaryDirectory() as folder:
        prepared(Path(folder))
        subprocess.run(
            [
                sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(RANKS),
                "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "-m", "tests.benchmarks.parallel_overhead",
                "--worker", folder, "--rounds", str(arguments.rounds),
            ],
            check=True,
        )  # fmt: skip
        figures = msgspec.json.decode((Path(folder) / "figures.json").read_bytes())
    figures |= {"ranks": RANKS, "rounds": arguments.rounds, "torch": torch.__version__, "model": MODEL.preset}
    for name, value in figures.items():
        print(f"{name:20} {value}")
    print(f"stored in {store('parallel_overhead', figures)}")


if __name__ == "__main__":
    main()
