"""``plan devices presets strategies``: what this machine has, and what a training would take of it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

import typer

from engine.contract.meshdrawing import draw_mesh
from engine.contract.presets import PRESETS, resolve_shape
from engine.contract.spec import ModelSpec, RunSpec
from engine.hardware.detect import detect
from engine.planner.estimate import Estimate, estimate, fit_problems, plan_object
from engine.planner.memory import MemoryEstimate
from engine.planner.shapes import parameter_count
from tui.commands.output import FAILED, UNKNOWN_FIT, emit, note, say, widest
from tui.commands.specs import chosen_spec, require_runnable
from tui.strategies import STRATEGIES, belonging
from tui.summary import layout_words
from tui.text import (
    human_bytes,
    human_count,
    human_duration,
    human_fraction,
    human_unit,
    pairs,
    printable,
    shows_unicode,
    table,
)

PRESET_CONTEXT = 1024
"""Sequence length for which presets are counted: only learned positions depend on it."""
GPT3_CONTEXT = 2048
PUBLISHED_VOCABULARY = {"gpt2": 50_257, "gpt3": 50_257, "llama": 32_000, "lstm": 10_000}
OWN_VOCABULARY = 4096
LLAMA_2_THETA = 10_000.0
LLAMA_3_VOCABULARY = 128_256


def plan(name_or_path: str, sets: list[str], *, as_json: bool) -> None:
    """Print the estimate of a spec. Exits with 1 if it does not fit, with 2 if that is unknown."""
    spec = chosen_spec(name_or_path, sets)
    machine = detect()
    require_runnable(spec, machine, name_or_path)
    found = estimate(spec, machine)
    if as_json:
        emit(plan_object(found))
    else:
        say(estimate_text(spec, found))
        for problem in fit_problems(found):
            say(f"! {problem}")
    if found.fits is not True:
        raise typer.Exit(UNKNOWN_FIT if found.fits is None else FAILED)


def estimate_text(spec: RunSpec, found: Estimate) -> str:
    """An estimate in lines of name and value."""
    memory, shape = found.memory, found.shape
    fits = {True: "yes", False: "NO", None: "unknown"}[found.fits]
    needed = f"{human_bytes(found.needed_bytes)} of {human_bytes(found.available_bytes)} available on {found.where}"
    items = [
        ("model", f"{spec.model.preset}: {human_count(found.parameters)} parameters ({found.parameters:,})"),
        ("", f"{shape.layers} layers, width {shape.hidden}, vocabulary {shape.vocabulary:,}"),
        ("data", f"{spec.data.source}, {spec.tokenizer.kind} tokens in sequences of {spec.data.sequence_length}"),
        ("layout", layout_words(found.layout)),
        ("length", _length(spec, found)),
        ("memory", f"{human_bytes(memory.total_bytes)} {_whose(found)}: {_parts(memory)}"),
        *([("", _each(found.memory_bytes))] if _is_uneven(found) else []),
        ("fits", f"{fits}: needs {needed}"),
        ("speed", "n/a (not predicted in this version)"),
        *(("assumed", assumption) for assumption in found.assumptions),
    ]
    mesh = mesh_lines(found)
    return "\n".join([pairs(items), *(["", *mesh] if mesh else [])])


def mesh_lines(found: Estimate) -> list[str]:
    """Which rank sits where; nothing for one process on this machine."""
    if found.layout.world_size == 1:
        return []
    width = shutil.get_terminal_size((100, 24)).columns
    lines = draw_mesh(found.layout, found.shape.layers, max(60, min(width, 120)), unicode=shows_unicode())
    return [printable(line, newlines=False) for line in lines]


def _length(spec: RunSpec, found: Estimate) -> str:
    """What ends it: whichever comes first."""
    limits = []
    if found.steps is not None:
        limits.append(f"{found.steps:,} steps ({human_count(found.tokens_total)} tokens)")
    if spec.budget.max_epochs is not None:
        limits.append(f"{spec.budget.max_epochs:g} epochs")
    if spec.budget.max_seconds is not None:
        limits.append(f"{human_duration(spec.budget.max_seconds)} of training")
    return " or ".join(limits)


LISTED_RANKS = 16
"""So many ranks are listed with the memory of each."""


def _is_uneven(found: Estimate) -> bool:
    return len(set(found.memory_bytes)) > 1


def _whose(found: Estimate) -> str:
    if not _is_uneven(found):
        return "per device"
    return f"on the device of rank {found.memory_bytes.index(max(found.memory_bytes))}, which needs most"


def _each(memory_bytes: Sequence[int]) -> str:
    """The memory of every rank, in the order of the ranks."""
    shown = ", ".join(human_bytes(count) for count in memory_bytes[:LISTED_RANKS])
    more = len(memory_bytes) - LISTED_RANKS
    return f"of each rank: {shown}" + (f" and {more} more" if more > 0 else "")


def _parts(memory: MemoryEstimate) -> str:
    """What takes the memory, at the instant at which it takes most."""
    names = ("parameters", "gradients", "optimiser", "activations", "logits", "overhead")
    return ", ".join(f"{name} {human_bytes(getattr(memory, f'{name}_bytes'))}" for name in names)


def strategies(*, as_json: bool) -> None:
    """Every strategy that ``layout.strategy`` takes, with the fields that belong to it."""
    if as_json:
        found = [{"name": name, "line": line, "fields": list(belonging(name))} for name, line in STRATEGIES.items()]
        emit({"strategies": found})
        return
    rows = [
        [name, line, ", ".join(field.removeprefix("layout.") for field in belonging(name))]
        for name, line in STRATEGIES.items()
    ]
    say(table(["strategy", "what it does", "its fields"], rows, widest=widest(80)))
    note("choose one with --set layout.strategy=NAME; it names the axis that takes what the given sizes leave over")


def devices(*, as_json: bool) -> None:
    """Every device with what is known of it at this moment."""
    machine = detect()
    if as_json:
        emit({"host": machine.host, "devices": machine.devices})
        return
    degrees = "°C" if shows_unicode() else "C"
    rows = [
        [
            f"{device.kind} {device.index}",
            device.name or "n/a",
            human_bytes(device.memory_used_bytes),
            human_bytes(device.memory_total_bytes),
            human_fraction(device.utilisation),
            human_unit(device.temperature_celsius, degrees),
            human_unit(device.power_watts, "W"),
            human_unit(device.clock_mhz, "MHz"),
            device.problem or (", ".join(device.throttle_reasons) if device.throttle_reasons else ""),
        ]
        for device in machine.devices
    ]
    say(
        table(
            ["device", "name", "used", "memory", "busy", "temp.", "power", "clock", "remarks"],
            rows,
            right=[2, 3, 4, 5, 6, 7],
            widest=widest(),
        )
    )


def presets(*, as_json: bool) -> None:
    """Every model preset with its exact size, with the vocabulary of the original."""
    found = [_preset(name) for name in PRESETS]
    if as_json:
        emit({"presets": found})
        return
    rows = [
        [
            preset["name"],
            f"{preset['parameters']:,}",
            *(str(preset[field]) for field in ("layers", "hidden", "heads", "kv_heads", "vocabulary")),
            preset["source"] or "",
        ]
        for preset in found
    ]
    headers = ["preset", "parameters", "layers", "width", "heads", "kv", "vocabulary", "source"]
    say(table(headers, rows, right=range(1, 7), widest=widest()))
    note("parameters are counted with the vocabulary in the table; that of your tokenizer changes them (see plan)")


def _preset(name: str) -> dict[str, Any]:
    preset = PRESETS[name]
    own = not preset.source
    vocabulary = OWN_VOCABULARY if own else PUBLISHED_VOCABULARY[name.partition("-")[0]]
    if preset.rope_theta > LLAMA_2_THETA:
        vocabulary = LLAMA_3_VOCABULARY
    context = GPT3_CONTEXT if name.startswith("gpt3") else PRESET_CONTEXT
    shape = resolve_shape(ModelSpec(preset=name), vocabulary=vocabulary, sequence_length=context)
    return {
        "name": name,
        "parameters": parameter_count(shape),
        **{field: getattr(shape, field) for field in ("family", "layers", "hidden", "heads", "kv_heads", "vocabulary")},
        "source": preset.source or None,
    }
