from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec
import pytest

from engine.contract.layout import Layout
from engine.contract.presets import resolve_shape
from engine.contract.shape import ModelShape
from engine.contract.spec import ModelSpec, OptimSpec, Precision
from engine.planner.memory import MemoryEstimate, estimate_memory
from engine.planner.shapes import parameter_count


def layout(
    micro_batch: int, precision: Precision = "fp32", accumulation: int = 1, replicas: int = 1, accelerator: str = "cpu"
) -> Layout:
    return Layout(
        strategy="ddp" if replicas > 1 else "single",
        accelerator=accelerator,  # type: ignore[arg-type]  # a test's parameter
        device_indices=tuple(range(replicas)),
        dp_replicate=replicas,
        micro_batch=micro_batch,
        accumulation=accumulation,
        precision=precision,
    )


def shape_of(preset: str, vocabulary: int, length: int, dropout: float | None = None) -> ModelShape:
    return resolve_shape(ModelSpec(preset=preset, dropout=dropout), vocabulary=vocabulary, sequence_length=length)


def tensors(memory: MemoryEstimate) -> int:
    return memory.total_bytes - memory.overhead_bytes


def peak_of_a_step(shape: ModelShape, plan: Layout, optim: OptimSpec, length: int) -> int:
    """Bytes that torch's CPU allocator had handed out at the fullest moment of the second step."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from engine.model.build import build_model
    from engine.parallel.recompute import apply_checkpointing
    from engine.training.optimiser import build_optimiser

    model = build_model(shape, seed=0)
    if plan.precision == "bf16-true":
        model.to(torch.bfloat16)
    model.get_submodule("criterion").chunks = plan.loss_chunks  # type: ignore[assignment]  # a Criterion
    apply_checkpointing(model, plan.checkpointing, plan.checkpoint_every)
    optimiser = build_optimiser(model, optim, torch.device("cpu"))
    mixed = plan.precision == "bf16-mixed"

    def step() -> None:
        for _ in range(plan.accumulation):
            tokens = torch.randint(0, shape.vocabulary, (plan.micro_batch, length + 1))
            with torch.autocast("cpu", torch.bfloat16) if mixed else contextlib.nullcontext():
                loss = model(tokens[:, :-1], targets=tokens[:, 1:])[0] / tokens[:, 1:].numel()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()

    step()
    held = sum(parameter.nbytes for parameter in model.parameters())
    held += sum(value.nbytes for state in optimiser.state.values() for value in state.values() if value is not None)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return held + peak


SGD = OptimSpec(name="sgd", momentum=0.0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that wait for each other make small steps slow on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("preset", "vocabulary", "plan", "length", "optim", "instant"),
    [
        ("gpt2-1m", 1000, layout(2), 64, OptimSpec(), "loss"),
        ("gpt2-1m", 64, layout(4, "bf16-mixed"), 128, OptimSpec(), "backward"),
        ("llama-1m", 2000, layout(2, accumulation=2), 64, OptimSpec(), "loss"),
        ("llama-1m", 64, layout(4), 128, OptimSpec(), "backward"),
        ("llama-1m", 1000, layout(1), 16, SGD, "end of backward"),
        ("lstm-1m", 2000, layout(4), 64, OptimSpec(), "loss"),
        ("lstm-1m", 64, layout(8), 64, OptimSpec(), "backward"),
        ("lstm-1m", 64, layout(1, "bf16-mixed"), 16, OptimSpec(), "end of backward"),
    ],
)
def test_the_estimate_is_what_torch_allocates(
    preset: str, vocabulary: int, plan: Layout, length: int, optim: OptimSpec, instant: str
) -> None:
    shape = shape_of(preset, vocabulary, length)
    memory = estimate_memory(shape, plan, optim, length)
    measured = peak_of_a_step(shape, plan, optim, length)
    # The decoders' tensors are counted one by one, the LSTM's workspace is fitted.
    allowed = 0.10 if shape.family == "lstm" else 0.03
    assert tensors(memory) == pytest.approx(measured, rel=allowed)
    assert memory.instant == instant


LEVERS: list[tuple[str, int, Layout, OptimSpec]] = [
    ("llama-1m", 64, msgspec.structs.replace(layout(16), checkpointing="full"), OptimSpec()),
    ("llama-1m", 64, msgspec.structs.replace(layout(16), checkpointing="full", checkpoint_every=2), OptimSpec()),
    ("gpt2-1m", 64, msgspec.structs.replace(layout(16), checkpointing="selective"), OptimSpec()),
    ("llama-1m", 64, msgspec.structs.replace(layout(16, "bf16-mixed"), checkpointing="selective"), OptimSpec()),
    ("llama-1m", 4000, msgspec.structs.replace(layout(8, accumulation=2), loss_chunks=8), OptimSpec()),
    ("gpt2-1m", 2000, layout(8, "bf16-true"), OptimSpec()),
    ("llama-1m", 1000, layout(4, "bf16-true"), OptimSpec()),
    ("llama-1m", 200, layout(1), OptimSpec(name="muon")),
    ("llama-1m", 2000, layout(1), OptimSpec(name="adafactor")),
]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("preset", "vocabulary", "plan", "optim"), LEVERS)
def test_levers_and_optimisers_take_what_is_estimated(
    preset: str, vocabulary: int, plan: Layout, optim: OptimSpec
) -> None:
    length = 16 if plan.micro_batch == 1 else 128
    shape = shape_of(preset, vocabulary, length)
    measured = peak_of_a_step(shape, plan, optim, length)
    assert tensors(estimate_memory(shape, plan, optim, length)) == pytest.approx(measured, rel=0.06)


@pytest.mark.usefixtures("one_thread")
def test_dropout_stores_masks_and_scores() -> None:
    shape = shape_of("gpt2-1m", 257, 128, dropout=0.1)
    measured = peak_of_a_step(shape, layout(2), OptimSpec(), 128)
    assert tensors(estimate_memory(shape, layout(2), OptimSpec(), 128)) == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize("preset", ["gpt2-124m", "llama-1b", "lstm-66m"])
@pytest.mark.parametrize("accelerator", ["cpu", "cuda", "mps"])
@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
def test_the_parts_add_up(preset: str, accelerator: str, precision: Precision) -> None:
    shape = shape_of(preset, 32000, 1024)
    memory = estimate_memory(shape, layout(2, precision, accelerator=accelerator), OptimSpec(), 1024)
    parts = (
        memory.parameters_bytes, memory.gradients_bytes, memory.optimiser_bytes, memory.activations_bytes,
        memory.logits_bytes, memory.overhead_bytes,
    )  # fmt: skip
    assert sum(parts) == memory.total_bytes
    assert all(part >= 0 for part in parts)
    assert memory.parameters_bytes >= 4 * parameter_count(shape)


def test_optimisers_keep_what_they_need() -> None:
    shape = shape_of("llama-3m", 4096, 256)
    count = parameter_count(shape)

    def states(optim: OptimSpec) -> int:
        return estimate_memory(shape, layout(1), optim, 256).optimiser_bytes

    assert states(OptimSpec(name="adamw")) == states(OptimSpec(name="adam")) == 8 * count
    assert states(OptimSpec(name="sgd", momentum=0.9)) == 4 * count
    assert states(OptimSpec(name="sgd", momentum=0.0)) == 0


@pytest.mark.parametrize("preset", ["gpt2-10m", "llama-30m", "lstm-10m"])
def test_more_never_needs_less(preset: str) -> None:
    def total(micro_batch: int = 2, length: int = 128, accumulation: int = 1, replicas: int = 1) -> int:
        plan = layout(micro_batch, accumulation=accumulation, replicas=replicas)
        return estimate_memory(shape_of(preset, 4096, length), plan, OptimSpec(), length).total_bytes

    by_batch = [total(micro_batch=size) for size in (1, 2, 3, 8, 64)]
    by_length = [total(length=size) for size in (16, 64, 256, 1024)]
    assert by_batch == sorted(by_batch)
    assert by_length == sorted(by_length)
    assert total(accumulation=4) >= total()
    assert total(replicas=2) > total()


def test_gradients_stay_where_more_micro_batches_follow() -> None:
    shape = shape_of("llama-3m", 4096, 256)
    held = [
        estimate_memory(shape, plan, OptimSpec(), 256).gradients_bytes
        for plan in (layout(4), layout(4, accumulation=2), layout(4, replicas=2))
    ]
    assert held == [0, 4 * parameter_count(shape), 4 * parameter_count(shape)]


def test_logits_are_counted_three_times() -> None:
    memory = estimate_memory(shape_of("llama-8b", 128256, 8192), layout(2), OptimSpec(), 8192)
    # The case of the planner's source: 23.5 GiB for a micro-batch of 2 x 8192 and 128,256 entries.
    assert memory.logits_bytes / 2**30 == pytest.approx(23.5, abs=0.05)
