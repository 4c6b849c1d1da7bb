"""``check(spec)``: every problem of a spec at once, each with its field and what to do.

What depends on a machine is in :mod:`engine.contract.layout` and :mod:`engine.contract.splitting`; what depends on
the text itself is found when the data is prepared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from engine.contract.errors import Problem, SpecError
from engine.contract.hosts import host_problems
from engine.contract.layout import Layout, resolve_layout
from engine.contract.limits import without_too_large
from engine.contract.machine import Machine
from engine.contract.pipelines import DEFAULT_SCHEDULE, SPLIT_BACKWARD
from engine.contract.placing import AXES
from engine.contract.presets import resolve_shape, shape_problems
from engine.contract.source import source_problems
from engine.contract.spec import RunSpec
from engine.contract.splitting import split_problems

LARGEST_NAME = 80
BYTE_TOKENS = 257
"""256 bytes and the end of a document."""
OFFLOADABLE = ("sgd", "adam", "adamw")
"""Optimisers whose update the host can compute as they stand."""


def check(spec: RunSpec, machine: Machine | None = None) -> list[Problem]:
    """All problems of ``spec``; with ``machine`` also those of running it there. Empty means good."""
    spec, too_large = without_too_large(spec)
    known = {problem.field for problem in too_large}
    return [*too_large, *(problem for problem in _problems(spec, machine) if problem.field not in known)]


def _problems(spec: RunSpec, machine: Machine | None) -> list[Problem]:
    problems = [
        *_name(spec),
        *_data(spec),
        *_tokenizer(spec),
        *shape_problems(spec.model),
        *_positions(spec),
        *_optim(spec),
        *_layout(spec),
        *_budget(spec),
        *_evaluation(spec),
    ]
    if machine is not None:
        layout = resolve_layout(spec, machine)
        found = layout if isinstance(layout, list) else _split(spec, layout)
        # What was said of a field already may be all that is wrong with it.
        named = {problem.field for problem in problems}
        problems += [problem for problem in found if problem.field not in named]
    return problems


def _split(spec: RunSpec, layout: Layout) -> list[Problem]:
    """What does not divide, as far as it is known before there is a tokenizer."""
    if shape_problems(spec.model) or spec.data.sequence_length < 1:
        return []
    certain = BYTE_TOKENS if spec.tokenizer.kind == "bytes" else None
    vocabulary = spec.model.vocabulary or certain or layout.tp  # as good as divided where it is not known
    shape = resolve_shape(spec.model, vocabulary=vocabulary, sequence_length=spec.data.sequence_length)
    return split_problems(shape, layout, spec.data.sequence_length)


def require(spec: RunSpec, machine: Machine | None = None, origin: str = "the spec") -> None:
    """Raise :class:`SpecError` with all problems of ``spec`` if it has any."""
    problems = check(spec, machine)
    if problems:
        raise SpecError(problems, origin)


def _least(field: str, value: float | None, least: float, hint: str = "") -> Iterator[Problem]:
    if value is not None and not (math.isfinite(value) and value >= least):
        yield Problem(field=field, message=f"must be at least {least:g}, not {value:g}", hint=hint)


def _above_zero(field: str, value: float | None, hint: str = "") -> Iterator[Problem]:
    if value is not None and not (math.isfinite(value) and value > 0):
        yield Problem(field=field, message=f"must be above 0, not {value:g}", hint=hint)


def _between(field: str, value: float, low: float, high: float) -> Iterator[Problem]:
    """``low <= value < high``."""
    if not low <= value < high:
        yield Problem(field=field, message=f"must be from {low:g} to below {high:g}, not {value:g}")


def _name(spec: RunSpec) -> Iterator[Problem]:
    if problem := name_problem(spec.name):
        yield Problem(field="name", message=problem, hint="for example: my-first-run")
    yield from _least("log_every_steps", spec.log_every_steps, 1)
    if not 0 <= spec.seed < 2**63:
        yield Problem(field="seed", message=f"must be from 0 to 2^63 - 1, not {spec.seed}")


def name_problem(name: str) -> str | None:
    """Why ``name`` cannot name a run or a profile; None if it can. A name never leaves its folder."""
    if not name.strip():
        return "a name is needed"
    if name.casefold() == "latest":
        return "'latest' stands for the newest run and names none"
    if len(name) > LARGEST_NAME:
        return f"a name has at most {LARGEST_NAME} characters, not {len(name)}"
    if name != name.strip() or name.startswith((".", "-")):
        return f"a name does not begin with a space, dot or dash, nor end with a space: {name!r}"
    if any(not (character.isalnum() or character in " ._+-") for character in name):
        return f"a name is made of letters, digits, spaces and . _ + -: {name!r}"
    return None


def _data(spec: RunSpec) -> Iterator[Problem]:
    data = spec.data
    yield from source_problems(data)
    yield from _least("data.sequence_length", data.sequence_length, 2, "common values: 128 to 8192")
    yield from _least("data.max_documents", data.max_documents, 1)
    if not 0 < data.validation_fraction < 1:
        yield Problem(
            field="data.validation_fraction",
            message=f"must be between 0 and 1, not {data.validation_fraction:g}",
            hint="0.02 holds out two documents of a hundred",
        )


def _tokenizer(spec: RunSpec) -> Iterator[Problem]:
    tokenizer = spec.tokenizer
    smallest = {"bpe": 260, "wordpiece": 100, "unigram": 100}
    if tokenizer.kind in smallest:
        yield from _least(
            "tokenizer.vocabulary", tokenizer.vocabulary, smallest[tokenizer.kind], "common values: 1024 to 131072"
        )
        if spec.model.vocabulary is not None and spec.model.vocabulary < tokenizer.vocabulary:
            yield Problem(
                field="model.vocabulary",
                message=f"{spec.model.vocabulary} is smaller than the tokenizer's {tokenizer.vocabulary}",
                hint="leave model.vocabulary out, or train a smaller tokenizer",
            )
    if tokenizer.kind == "bytes" and spec.model.vocabulary is not None and spec.model.vocabulary < BYTE_TOKENS:
        yield Problem(
            field="model.vocabulary",
            message=f"{spec.model.vocabulary} is smaller than the {BYTE_TOKENS} ids of the bytes tokenizer",
            hint="leave model.vocabulary out",
        )
    if tokenizer.kind == "file" and not tokenizer.file:
        yield Problem(field="tokenizer.file", message="kind 'file' needs a tokenizer.json", hint="give its path here")
    if tokenizer.kind != "file" and tokenizer.file:
        yield Problem(
            field="tokenizer.kind",
            message=f"a tokenizer file is given, but the kind is {tokenizer.kind!r}",
            hint='set tokenizer.kind = "file"',
        )


def _positions(spec: RunSpec) -> Iterator[Problem]:
    if shape_problems(spec.model):
        return
    shape = resolve_shape(spec.model, vocabulary=1, sequence_length=max(1, spec.data.sequence_length))
    if shape.position == "learned" and shape.positions < spec.data.sequence_length:
        yield Problem(
            field="model.positions",
            message=f"{shape.positions} learned positions are fewer than the sequence length "
            f"{spec.data.sequence_length}",
            hint="leave model.positions out, or shorten data.sequence_length",
        )


def _optim(spec: RunSpec) -> Iterator[Problem]:
    optim = spec.optim
    yield from _above_zero("optim.lr", optim.lr, "common values: 1e-4 to 3e-3")
    yield from _least("optim.batch_size", optim.batch_size, 1)
    yield from _least("optim.warmup_steps", optim.warmup_steps, 0)
    yield from _least("optim.weight_decay", optim.weight_decay, 0)
    yield from _between("optim.beta1", optim.beta1, 0, 1)
    yield from _between("optim.beta2", optim.beta2, 0, 1)
    yield from _above_zero("optim.eps", optim.eps)
    yield from _between("optim.momentum", optim.momentum, 0, 1)
    if optim.name == "sgd" and optim.nesterov and optim.momentum == 0:
        yield Problem(field="optim.nesterov", message="needs a momentum above 0", hint="set optim.momentum = 0.9")
    yield from _above_zero("optim.clip_norm", optim.clip_norm, "leave it out for no clipping")
    yield from _between("optim.label_smoothing", optim.label_smoothing, 0, 1)
    for field in ("decay_fraction", "final_lr_ratio"):
        value = getattr(optim, field)
        if not 0 <= value <= 1:
            yield Problem(field=f"optim.{field}", message=f"must be from 0 to 1, not {value:g}")


def _layout(spec: RunSpec) -> Iterator[Problem]:
    layout = spec.layout
    counts = ("virtual_stages", "micro_batch", "accumulation", "checkpoint_every", "loss_chunks", "threads_per_worker")
    for name in (*AXES, *counts):
        yield from _least(f"layout.{name}", getattr(layout, name), 1)
    for name in ("stages", "micro_batches"):
        numbers = getattr(layout, name)
        if numbers is not None and (not numbers or min(numbers) < 1):
            message = f"must be at least 1 each, not {min(numbers)}" if numbers else "an empty list"
            yield Problem(field=f"layout.{name}", message=message, hint="leave it out")
    if isinstance(layout.devices, int):
        yield from _least("layout.devices", layout.devices, 1, "leave it out to use what is there")
    elif layout.devices is not None:
        if not layout.devices:
            yield Problem(field="layout.devices", message="an empty list of devices", hint="leave it out")
        if len(set(layout.devices)) != len(layout.devices):
            yield Problem(field="layout.devices", message="a device is named twice")
    if layout.hosts is not None:
        yield from host_problems(layout.hosts)
    yield from _levers(spec)


def _levers(spec: RunSpec) -> Iterator[Problem]:
    """Choices that exclude each other on any machine."""
    layout = spec.layout
    if layout.micro_batches is not None and layout.micro_batch is not None:
        message = "one size for all ranks and a list of sizes are given"
        yield Problem(field="layout.micro_batches", message=message, hint="leave micro_batch or micro_batches out")
    if layout.checkpointing == "none" and layout.checkpoint_every > 1:
        yield Problem(
            field="layout.checkpoint_every",
            message=f"every {layout.checkpoint_every} layers nothing is computed again: checkpointing is none",
            hint='set layout.checkpointing = "full" or "selective", or leave checkpoint_every out',
        )
    if layout.offload_optimizer and spec.optim.name not in OFFLOADABLE:
        yield Problem(
            field="layout.offload_optimizer",
            message=f"the state of {spec.optim.name} cannot be kept on the host",
            hint=f"choose optim.name from {', '.join(OFFLOADABLE)}",
        )
    if layout.compile and (layout.schedule or DEFAULT_SCHEDULE) in SPLIT_BACKWARD:
        yield Problem(
            field="layout.compile",
            message=f"{layout.schedule} takes the backward pass apart, which torch.compile does not allow",
            hint='choose layout.schedule = "interleaved-1f1b", or leave compile out',
        )


def _budget(spec: RunSpec) -> Iterator[Problem]:
    budget = spec.budget
    yield from _least("budget.max_steps", budget.max_steps, 1)
    yield from _least("budget.max_tokens", budget.max_tokens, 1)
    yield from _above_zero("budget.max_epochs", budget.max_epochs)
    yield from _above_zero("budget.max_seconds", budget.max_seconds)
    if budget.max_steps is budget.max_tokens is budget.max_epochs is budget.max_seconds is None:
        yield Problem(
            field="budget.max_steps",
            message="nothing says when to stop",
            hint="set budget.max_steps, max_tokens, max_epochs or max_seconds",
        )


def _evaluation(spec: RunSpec) -> Iterator[Problem]:
    evaluation, checkpoint = spec.evaluation, spec.checkpoint
    yield from _least("evaluation.every_steps", evaluation.every_steps, 1, "leave it out to evaluate at the end only")
    yield from _least("evaluation.max_batches", evaluation.max_batches, 1)
    yield from _least("evaluation.sample_tokens", evaluation.sample_tokens, 0)
    yield from _least("evaluation.temperature", evaluation.temperature, 0, "0 always takes the likeliest token")
    yield from _least("evaluation.top_k", evaluation.top_k, 1)
    yield from _least("checkpoint.every_steps", checkpoint.every_steps, 1, "leave it out for one at the end only")
    yield from _least("checkpoint.keep_last", checkpoint.keep_last, 1)
