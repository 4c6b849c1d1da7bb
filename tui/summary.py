"""One-line summaries of machines, models and layouts, shared by several screens."""

from __future__ import annotations

from engine.contract.layout import Layout
from engine.contract.machine import Machine
from engine.contract.presets import PRESETS, resolve_shape
from engine.contract.shape import ModelShape
from engine.contract.spec import RunSpec
from tui.mesh import mesh_words, sizes_of
from tui.text import human_bytes, printable

_FAMILIES = {"gpt2": "GPT-2", "llama": "Llama", "lstm": "LSTM"}


def machine_summary(machine: Machine) -> str:
    """``2 x H100 80 GiB, 16 cores, 118 GiB``."""
    counts: dict[str, int] = {}
    for device in machine.devices:
        if device.kind != "cpu":
            memory = f" {human_bytes(device.memory_total_bytes)}" if device.memory_total_bytes else ""
            name = printable(device.name or device.kind, newlines=False).removeprefix("NVIDIA ") + memory
            if device.problem:
                name += " (unusable)"
            counts[name] = counts.get(name, 0) + 1
    parts = [f"{count} x {name}" if count > 1 else name for name, count in counts.items()]
    parts.append(f"{machine.cpu_cores} core{'s' if machine.cpu_cores != 1 else ''}")
    if machine.memory_total_bytes:
        parts.append(human_bytes(machine.memory_total_bytes))
    return ", ".join(parts)


def shape_summary(shape: ModelShape) -> str:
    """Family, layers x width, heads: ``Llama 6 x 192, 6 heads``."""
    text = f"{_FAMILIES.get(shape.family, shape.family)} {shape.layers} x {shape.hidden}"
    if shape.family != "lstm":
        text += f", {shape.heads} heads"
        if shape.kv_heads != shape.heads:
            text += f" ({shape.kv_heads}\u00a0kv)"
    return text


def layout_summary(layout: Layout) -> str:
    """``ddp on 2 x cpu, fp32``; of more than one axis also their sizes: ``hybrid (pp 2 x tp 2) on 4 x cuda, fp32``."""
    where = f"{layout.world_size} x {layout.accelerator}" if layout.world_size > 1 else layout.accelerator
    if layout.hosts is not None and len(layout.hosts) > 1:
        where += f" on {len(layout.hosts)} hosts"
    sizes = f" ({mesh_words(layout)})" if len(sizes_of(layout)) > 1 else ""
    return f"{layout.strategy}{sizes} on {where}, {layout.precision}"


def batch_words(layout: Layout) -> str:
    """``micro-batch 8 x 2 accumulated x 2 ranks``."""
    words = f"micro-batch {layout.micro_batch}"
    if layout.micro_batches:
        words = "micro-batches " + " + ".join(map(str, layout.micro_batches))
    if layout.accumulation > 1:
        words += f" x {layout.accumulation} accumulated"
    return words + (f" x {layout.data_ranks} ranks" if layout.data_ranks > 1 and not layout.micro_batches else "")


def memory_levers(layout: Layout) -> str:
    """What of a layout spares memory, and the schedule of its pipeline; empty where it is all as usual."""
    every = f" every {layout.checkpoint_every} layers" if layout.checkpoint_every > 1 else ""
    parts = [
        layout.schedule or "",
        f"{layout.virtual_stages} stages each" if layout.virtual_stages > 1 else "",
        f"checkpointing {layout.checkpointing}{every}" if layout.checkpointing != "none" else "",
        f"loss in {layout.loss_chunks} chunks" if layout.loss_chunks > 1 else "",
        "optimiser offloaded" if layout.offload_optimizer else "",
    ]
    return ", ".join(part for part in parts if part)


def layout_words(layout: Layout) -> str:
    """All of a layout in one line: ``ddp on 2 x cpu, fp32, 1 thread each: micro-batch ... = 16 sequences a step``."""
    threads = layout.threads_per_worker
    parts = [
        layout_summary(layout),
        f"{threads} thread{'s' if threads != 1 else ''} each" if threads and layout.accelerator == "cpu" else "",
        memory_levers(layout),
    ]
    words = ", ".join(part for part in parts if part)
    return f"{words}: {batch_words(layout)} = {layout.batch_size} sequences a step"


def data_summary(spec: RunSpec) -> str:
    """The last part of the source's path: ``python-stdlib``, ``books.txt``."""
    source = spec.data.source.rstrip("/")
    return printable(source.rpartition("/")[2] if source.startswith(("/", ".", "~")) else source, newlines=False)


def model_summary(spec: RunSpec) -> str:
    """The preset, and what replaces its dimensions: ``llama-3m, layers 8``."""
    model = spec.model
    changed = [
        f"{name.replace('_', ' ')} {value}"
        for name in ("family", "layers", "layer_groups", "hidden", "heads", "kv_heads", "feed_forward")
        if (value := getattr(model, name)) is not None
    ]
    return ", ".join([printable(model.preset, newlines=False), *changed])


def shape_of(spec: RunSpec) -> ModelShape | None:
    """The shape with the vocabulary that the tokenizer is asked for; None if the preset is unknown."""
    if spec.model.preset not in PRESETS:
        return None
    return resolve_shape(spec.model, vocabulary=spec.tokenizer.vocabulary, sequence_length=spec.data.sequence_length)
