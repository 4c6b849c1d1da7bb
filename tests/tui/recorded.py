"""Runs on disk as the engine leaves them, made in milliseconds: for screens and commands to be tried on."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from engine.contract.events import (
    Checkpoint,
    DataReady,
    DevicesFound,
    Ended,
    Event,
    Failure,
    Launched,
    Notice,
    Progress,
    Sample,
    Started,
    State,
    Telemetry,
    Train,
    Validation,
)
from engine.contract.journal import Journal
from engine.contract.layout import Layout
from engine.contract.machine import Device, DeviceSample, Process
from engine.contract.rundir import RunDirectory, RunInfo
from engine.contract.spec import BudgetSpec, RunSpec
from engine.contract.specfile import dump_spec
from engine.hardware.host import identity

BEGIN = 1_760_000_000.0
"""The moment at which all recorded runs were created."""
GIB = 1 << 30
STEP_SECONDS = 0.25
TOKENS_PER_STEP = 32 * 256


class Clock:
    """A clock that goes on by itself a little at every look."""

    def __init__(self, now: float = BEGIN, tick: float = 0.01) -> None:
        self.now, self.tick = now, tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


def noise(step: int) -> float:
    """-1 to 1, the same every time, without order to the eye."""
    return math.modf(math.sin(step * 12.9898) * 43758.5453)[0]


def loss_at(step: int) -> float:
    """A loss as it falls in the first epoch of a small model."""
    return 2.1 + 6.3 * math.exp(-step / 60) + 0.5 * math.exp(-step / 600) + 0.12 * noise(step)


def training_events(first: int, last: int, *, validate_every: int = 50) -> Iterator[Event]:
    """What rank 0 writes between two steps, ``first`` excluded."""
    if first == 0:
        yield validation(0)
    for step in range(first + 1, last + 1):
        yield train(step)
        if step % validate_every == 0:
            yield validation(step)
        if step % 200 == 0:
            yield Checkpoint(step=step, name=f"step-{step}", bytes=38_000_000, seconds=0.2, best=True)
            text = "def read(path):\n    with open(path) as file:\n        return file.read()\n"
            yield Sample(step=step, prompt="def ", text=text.removeprefix("def "))


def train(step: int) -> Train:
    return Train(
        step=step, loss=loss_at(step), lr=1e-3 * min(1.0, step / 20), grad_norm=0.6 + 0.3 * abs(noise(step + 7)),
        tokens=step * TOKENS_PER_STEP, samples=step * 32, tokens_per_second=TOKENS_PER_STEP / STEP_SECONDS,
        step_seconds=STEP_SECONDS, elapsed_seconds=step * STEP_SECONDS, data_wait_seconds=0.0004,
    )  # fmt: skip


def validation(step: int) -> Validation:
    loss = loss_at(step) + 0.1
    return Validation(
        step=step, loss=loss, perplexity=math.exp(loss), bits_per_byte=loss / math.log(2) / 3.1, tokens=40960,
        seconds=2.0,
    )  # fmt: skip


def started(step: int = 0, *, max_steps: int | None = 1000, resumed_from: str | None = None) -> Started:
    return Started(
        step=step, parameters=3_154_176, world_size=2, accelerator="cpu", device_names=("cpu", "cpu"), batch_size=32,
        micro_batch=8, accumulation=2, sequence_length=256, precision="fp32", optimiser="adamw", max_steps=max_steps,
        resumed_from=resumed_from,
    )  # fmt: skip


def recorded_run(
    folder: Path, steps: int = 400, state: str = "running", *, name: str = "quickstart", gpus: int = 0,
    preparing: bool = False, alive: bool | None = None, layout: Layout | None = None,
) -> RunDirectory:  # fmt: skip
    """A run directory in ``folder`` as it is after ``steps`` of 1000 steps, in ``state``.

    Its supervisor is this very process while the state is a live one (``alive`` says otherwise).
    """
    run = RunDirectory(folder / f"{name}-20251009-085320-0a1b")
    run.path.mkdir(parents=True, mode=0o700)
    info = RunInfo(id=run.id, name=name, created=BEGIN, host="atelier", version="0.1.0")
    run.info.write_bytes(msgspec.json.encode(info))
    run.spec.write_text(dump_spec(RunSpec(name=name, budget=BudgetSpec(max_steps=1000))))
    layout = layout or Layout(
        strategy="ddp", accelerator="cpu", device_indices=(0, 1), dp_replicate=2, micro_batch=8, accumulation=2,
        precision="fp32", threads_per_worker=1,
    )  # fmt: skip
    run.plan.write_bytes(msgspec.json.encode({"layout": layout}))
    live = state not in {"finished", "failed", "lost"}
    who = identity(os.getpid())
    assert who is not None
    if not (live if alive is None else alive):
        who = msgspec.structs.replace(who, pid=2**22 + 1)
    run.supervisor.write_bytes(msgspec.json.encode(who))
    clock = Clock()
    _write_preparation(run, clock, half=preparing)
    if not preparing:
        clock.tick = STEP_SECONDS
        with Journal(run.events_of("rank0"), clock) as journal:
            for event in (State(state="running"), started(), *training_events(0, steps)):
                journal.write(event)
            if state in {"pausing", "paused", "stopping"}:
                journal.write(State(state=state, step=steps, reason="asked for"))  # type: ignore[arg-type]
            if state == "finished":
                journal.write(Ended(step=steps, reason="max_steps", tokens=steps * TOKENS_PER_STEP,
                                    elapsed_seconds=steps * STEP_SECONDS))  # fmt: skip
    _write_telemetry(run, gpus)
    _write_end(run, clock, steps, state)
    run.log.write_text("".join(f"{line}\n" for line in LOG))
    return run


LOG = (
    "[supervisor] preparing the data",
    "[data] 1,204 documents, 14.2 MiB",
    "[supervisor] starting 2 workers",
    "[rank 0] llama-3m: 3,154,176 parameters",
    "[rank 1] ready",
    "[rank 0] UserWarning: the \x1b[31mred\x1b[0m words of a library",
)


def _write_preparation(run: RunDirectory, clock: Clock, *, half: bool) -> None:
    with Journal(run.events_of("supervisor"), clock) as journal:
        journal.write(State(state="starting"))
        journal.write(Launched(what="data", pid=4000, command=("python",)))
    with Journal(run.events_of("data"), clock) as journal:
        for done in (100, 1204):
            journal.write(Progress(what="reading documents", done=done, unit="documents"))
        journal.write(Progress(what="training the tokenizer", done=9.5e6, total=14.9e6, unit="bytes"))
        if half:
            return
        journal.write(Progress(what="training the tokenizer", done=14.9e6, total=14.9e6, unit="bytes"))
        journal.write(
            DataReady(directory="/cache/x", fingerprint="x", documents=1204, bytes=14_900_000, vocabulary=4096,
                      train_tokens=4_650_000, validation_tokens=96_000, unknown_rate=None, cached=False)
        )  # fmt: skip
    with Journal(run.events_of("supervisor"), clock) as journal:
        journal.write(Launched(what="training", pid=4001, command=("python",)))
        journal.write(Notice(level="warning", message="2 workers share 2 cores with other programs"))


def _write_telemetry(run: RunDirectory, gpus: int) -> None:
    devices = [
        Device(
            index=index, kind="cuda", name="NVIDIA H100 80GB HBM3", memory_total_bytes=80 * GIB, power_limit_watts=700.0
        )
        for index in range(gpus)
    ]  # fmt: skip
    cpu = Device(index=0, kind="cpu", name="AMD EPYC 7R13", memory_total_bytes=16 * GIB, slots=2)
    with Journal(run.telemetry / "atelier.jsonl", Clock(BEGIN + 5, 1.0)) as journal:
        journal.write(DevicesFound(host="atelier", devices=(*devices, cpu)))
        for second in range(90):
            samples = [
                DeviceSample(
                    index=index, kind="cuda", memory_used_bytes=(61 + index) * GIB,
                    utilisation=0.9 + 0.09 * noise(second * 8 + index), temperature_celsius=60.0 + 4 * index,
                    power_watts=610.0 + 10 * index, clock_mhz=1755.0,
                )
                for index in range(gpus)
            ]  # fmt: skip
            workers = tuple(
                Process(pid=4100 + rank, rank=rank, memory_bytes=512 << 20, cpu_fraction=0.97) for rank in range(2)
            )
            samples.append(
                DeviceSample(
                    index=0,
                    kind="cpu",
                    memory_used_bytes=int(3.2 * GIB),
                    utilisation=0.85 + 0.14 * noise(second),
                    processes=workers,
                )
            )
            journal.write(Telemetry(samples=tuple(samples), cpu_fraction=0.93))


def _write_end(run: RunDirectory, clock: Clock, steps: int, state: str) -> None:
    with Journal(run.events_of("supervisor"), clock) as journal:
        if state == "failed":
            journal.write(
                Failure(
                    step=steps, title="A worker ran out of memory", rank=1, exit_code=1, exception="OutOfMemoryError",
                    message="rank 1 needed 512 MiB more than the 80 GiB of device 1",
                    hint="make layout.micro_batch smaller, or choose a smaller model",
                    log_tail=('  File "engine/training/loop.py", line 88, in step', "OutOfMemoryError: out of memory"),
                )
            )  # fmt: skip
            journal.write(State(state="failed", reason="a worker ran out of memory", step=steps))
        elif state == "finished":
            journal.write(State(state="finished", reason="all 1000 steps are done", step=steps))
