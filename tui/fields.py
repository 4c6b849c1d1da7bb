"""Every field of a spec as a form shows it: made from the structs of the contract and their docstrings.

A field that is added to the contract appears in the form by itself, under "all fields" of its section.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec

from engine.contract import spec as contract
from engine.contract.presets import PRESETS
from engine.contract.specfile import PARTS
from tui.strategies import OF_ANY

Kind = Literal["text", "integer", "number", "switch", "choice", "devices", "integers", "names"]


@dataclass(frozen=True, kw_only=True)
class Field:
    """One line of the form."""

    name: str
    """Dotted, as ``--set`` takes it."""
    label: str
    kind: Kind
    optional: bool
    """Whether it may be left empty (None)."""
    default: object
    choices: tuple[str, ...] = ()
    """Of ``choice`` and ``switch``; the empty word stands for None."""
    help: str = ""
    main: bool = False
    """Shown without asking for all fields."""


SECTIONS: Final[dict[str, tuple[str, ...]]] = {
    "Run": ("",),
    "Data": ("data",),
    "Tokenizer": ("tokenizer",),
    "Model": ("model",),
    "Training": ("budget", "optim"),
    "Layout": ("layout",),
    "Evaluation": ("evaluation",),
    "Checkpoints": ("checkpoint",),
}
"""Headings of the form and the tables of the spec under each; the empty name is the top level."""

_LABELS: Final[dict[str, str]] = {
    "name": "Name",
    "data.source": "Dataset", "data.format": "Format", "data.text_field": "Text field",
    "data.sequence_length": "Sequence length", "data.validation_fraction": "Validation share",
    "tokenizer.kind": "Tokenizer", "tokenizer.vocabulary": "Vocabulary", "tokenizer.file": "Tokenizer file",
    "model.preset": "Size", "model.family": "Family", "model.dropout": "Dropout",
    "budget.max_steps": "Steps", "optim.batch_size": "Batch size", "optim.name": "Optimiser",
    "optim.lr": "Learning rate", "optim.schedule": "Schedule", "optim.warmup_steps": "Warmup steps",
    "layout.strategy": "Strategy", "layout.accelerator": "Accelerator", "layout.devices": "Devices",
    "layout.micro_batch": "Micro-batch", "layout.precision": "Precision",
    "optim.eps": "Epsilon", "model.rope_theta": "RoPE theta", "model.kv_heads": "KV heads",
    "layout.pp": "Pipeline (pp)", "layout.dp_replicate": "Replicas (dp)", "layout.dp_shard": "Shards (fsdp)",
    "layout.cp": "Context (cp)", "layout.tp": "Tensor (tp)", "layout.schedule": "Pipeline schedule",
    "layout.stages": "Layers per stage", "layout.micro_batches": "Micro-batches",
    "layout.loss_chunks": "Loss in chunks",
    "layout.checkpoint_every": "Every k-th layer", "layout.offload_optimizer": "Offload optimiser",
    "layout.threads_per_worker": "Threads per worker", "layout.checkpointing": "Checkpointing",
}  # fmt: skip
_MAIN: Final[tuple[str, ...]] = (
    "name", "budget.max_steps", "optim.batch_size", "optim.lr", "optim.schedule", "optim.warmup_steps", "optim.name",
    "data.source", "data.format", "data.text_field", "data.sequence_length", "tokenizer.kind", "tokenizer.vocabulary",
    "model.preset", "model.family", "layout.strategy", "layout.accelerator", "layout.devices", "layout.micro_batch",
    "layout.checkpointing", "layout.precision",
)  # fmt: skip
"""The fields that most people set, in the order in which they stand in their sections."""
_SPECIAL: Final = tuple(f"layout.{name}" for name in OF_ANY)
_HELP: Final[dict[str, str]] = {
    "name": "What this training is called. Runs may share a name; each gets an id of its own.",
    "description": "A line for you: what this training is for.",
    "seed": "Starting point of every random choice: the same seed gives the same training.",
    "log_every_steps": "Steps between two points of the curves.",
    "tokenizer.kind": "bytes and characters need no training; bpe, wordpiece and unigram learn a vocabulary from "
    "the data; file uses a tokenizer.json as it is.",
    "model.preset": "How large the network is: enter lists all sizes with their exact parameter counts. Any dimension "
    "can be replaced under all fields.",
    "model.family": "The kind of network: gpt2 and llama are transformers, lstm is recurrent. Auto is the preset's.",
    "model.layers": "Blocks of the network; empty takes the preset's number.",
    "model.heads": "Attention heads; hidden must be divisible by it. Empty takes the preset's number.",
    "model.head_size": "Width of one attention head; empty: hidden / heads.",
    "model.tied_embeddings": "Use one matrix for reading tokens and for predicting them.",
    "model.bias": "Additive terms in the linear layers; auto is the family's habit.",
    "model.dropout": "Share of activations zeroed while training; 0 is off.",
    "model.rope_theta": "Base of the rotary positions; empty takes the preset's.",
    "optim.name": "The rule that turns gradients into updates; adamw is the usual one for language models.",
    "optim.schedule": "How the learning rate goes on after the warmup.",
    "optim.warmup_steps": "Steps in which the learning rate rises from 0 to its peak.",
    "optim.beta1": "Decay of the running mean of gradients (Adam).",
    "optim.beta2": "Decay of the running mean of squared gradients (Adam).",
    "optim.eps": "Added to Adam's denominator.",
    "optim.nesterov": "Look ahead along the momentum (SGD).",
    "optim.label_smoothing": "Share of the target spread over all tokens; 0 is off.",
    "layout.strategy": "How the model and the batch lie over the devices. It names the axis that takes what the given "
    "sizes leave over.",
    "layout.accelerator": "Which kind of device; auto takes GPUs where there are any.",
    "layout.devices": "How many devices of each host (2), or which ones (0,3). Empty: all GPUs, or on the CPU as many "
    "processes as the sizes need.",
    "layout.hosts": "Machines by their ssh names, with commas, in the order of their ranks; localhost is this one. "
    "Empty: this one alone.",
    "layout.pp": "Groups of layers side by side, each on devices of its own.",
    "layout.dp_replicate": "Copies of the model (of its shards, with fsdp), each with a part of the batch.",
    "layout.dp_shard": "Devices among which weights, gradients and optimiser state are sharded.",
    "layout.cp": "Devices among which each sequence is split: for long contexts.",
    "layout.tp": "Devices among which each matrix is split; it divides the heads and the key/value heads.",
    "layout.schedule": "In which order a pipeline works: 1f1b is the usual one, gpipe the plainest; the others leave "
    "fewer gaps.",
    "layout.virtual_stages": "Stages of one device, for the schedules that interleave. Empty: 2 there, 1 elsewhere.",
    "layout.stages": "Layers of each stage with commas, for unequal devices: 5,4,4,3. Empty: as even as can be.",
    "layout.micro_batches": "Sequences that each data rank processes at a time, with commas, for devices of unequal "
    "speed: 8,4. It takes the place of the micro-batch.",
    "layout.checkpointing": "Compute activations again in the backward pass instead of keeping them: less memory, up "
    "to a third more time for full.",
    "layout.checkpoint_every": "Checkpoint the activations of every k-th layer only; 1 is every layer.",
    "layout.precision": "bf16-mixed halves the memory of activations and is faster on recent GPUs.",
    "layout.compile": "Let torch.compile fuse the network: a slower start, then faster steps.",
    "budget.max_steps": "Stop after this many optimiser steps. Of all limits, the first one reached counts.",
    "budget.max_tokens": "Stop after this many trained tokens.",
    "budget.max_epochs": "Stop after this many passes over the training data; fractions are fine.",
    "evaluation.temperature": "Of generated samples: low is repetitive, high is wild; 0 takes the likeliest token.",
    "evaluation.top_k": "Samples choose among this many likeliest tokens; empty among all.",
    "checkpoint.keep_last": "How many of the newest checkpoints stay on disk.",
}  # fmt: skip
"""Where the contract has no docstring, or one that is not meant for a form."""


def _docstrings(kind: type[msgspec.Struct]) -> dict[str, str]:
    """The string under each field of a struct; empty where the source is not at hand."""
    try:
        tree = ast.parse(inspect.getsource(kind))
    except (OSError, SyntaxError):  # installed without sources: the form works, with less help
        return {}
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    found = {}
    for field, text in itertools.pairwise(body):
        if (
            isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        ):  # fmt: skip
            words = " ".join(str(text.value.value).replace("``", "").split())
            # The contract says None; a person who looks at a form sees an empty field.
            found[field.target.id] = re.sub(r"\bNone\b", "empty", re.sub(r"^None\b", "Empty", words))
    return found


def _kind_of(name: str, hint: Any) -> tuple[Kind, tuple[str, ...], bool]:
    """``(kind, choices, optional)`` of an annotation."""
    if name == "layout.devices":
        return "devices", (), True
    options = [option for option in get_args(hint) if option is not type(None)]
    optional = type(None) in get_args(hint)
    if len(options) == 1:
        hint = options[0]
    if get_origin(hint) is tuple:
        return ("names" if str in get_args(hint) else "integers"), (), optional
    empty = ("",) if optional else ()
    if name == "model.preset":
        return "choice", tuple(PRESETS), False
    if words := tuple(word for word in (get_args(hint) or options) if isinstance(word, str)):
        return "choice", empty + words, optional
    if hint is bool:
        return "switch", (*empty, "no", "yes"), optional
    if hint is int:
        return "integer", (), optional
    return ("number" if hint is float else "text"), (), optional


def _fields_of(table: str, kind: type[msgspec.Struct]) -> list[Field]:
    hints, docs = get_type_hints(kind), _docstrings(kind)
    fields = []
    for info in msgspec.structs.fields(kind):
        if not table and info.name in PARTS:
            continue
        name = f"{table}.{info.name}" if table else info.name
        sort, choices, optional = _kind_of(name, hints[info.name])
        fields.append(
            Field(
                name=name,
                label=_LABELS.get(name, info.name.replace("_", " ").capitalize()),
                kind=sort,
                optional=optional,
                default=info.default,
                choices=choices,
                help=_HELP.get(name) or docs.get(info.name, ""),
                main=name in _MAIN,
            )
        )
    return fields


def sections() -> dict[str, list[Field]]:
    """Every field of a spec under its heading, main ones first; after the strategy what belongs to one or another."""
    result: dict[str, list[Field]] = {}
    for heading, tables in SECTIONS.items():
        found = [field for table in tables for field in _fields_of(table, PARTS.get(table, contract.RunSpec))]
        main = sorted((field for field in found if field.main), key=lambda field: _MAIN.index(field.name))
        special = sorted(
            (field for field in found if field.name in _SPECIAL), key=lambda field: _SPECIAL.index(field.name)
        )
        first = 1 + next((index for index, field in enumerate(main) if field.name == "layout.strategy"), -1)
        rest = [field for field in found if not field.main and field.name not in _SPECIAL]
        result[heading] = [*main[:first], *special, *main[first:], *rest]
    return result
