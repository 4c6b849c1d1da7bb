"""``RunSpec``: everything that a person decides about one training.

A field that is ``None`` is left to Traindeck, which says what it chose. Sizes are counts unless the
name carries a unit. The file form is TOML (see :mod:`engine.contract.specfile`), one table per part.
"""

from __future__ import annotations

from typing import Literal

import msgspec

SourceFormat = Literal["auto", "text", "jsonl", "json", "csv", "parquet", "huggingface-disk", "hub"]
TokenizerKind = Literal["bytes", "characters", "bpe", "wordpiece", "unigram", "file"]
Family = Literal["gpt2", "llama", "lstm"]
OptimizerName = Literal["sgd", "adam", "adamw", "adafactor", "muon"]
ScheduleName = Literal["constant", "linear", "cosine", "warmup-stable-decay"]
Accelerator = Literal["auto", "cpu", "cuda", "mps"]
Strategy = Literal["auto", "single", "ddp", "zero2", "fsdp", "hsdp", "tensor", "pipeline", "hybrid"]
Precision = Literal["fp32", "bf16-mixed", "bf16-true", "fp16-mixed", "fp8"]
Schedule = Literal["gpipe", "1f1b", "interleaved-1f1b", "zero-bubble", "zero-bubble-v"]
Checkpointing = Literal["none", "selective", "full"]


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all parts of a spec have in common."""


class DataSpec(_Part, frozen=True, kw_only=True):
    """Where the text comes from and how it is cut into samples."""

    source: str = "python-stdlib"
    """``python-stdlib``, a file, a folder, or a Hugging Face hub name such as ``owner/name``."""
    format: SourceFormat = "auto"
    """How to read the source; ``auto`` goes by file suffix and folder content."""
    text_field: str | None = None
    """Column or key that holds the text; detected when None."""
    subset: str | None = None
    """Configuration name of a hub dataset."""
    split: str = "train"
    """Which split of a hub or ``save_to_disk`` dataset is the training text."""
    sequence_length: int = 256
    """Tokens in one sample."""
    validation_fraction: float = 0.02
    """Share of the documents held out for validation, chosen by a hash of each document."""
    max_documents: int | None = None
    """Stop reading after this many documents."""


class TokenizerSpec(_Part, frozen=True, kw_only=True):
    """How text becomes token ids."""

    kind: TokenizerKind = "bpe"
    vocabulary: int = 4096
    """Size of a trained vocabulary (bpe, wordpiece, unigram), special tokens included."""
    file: str | None = None
    """A ``tokenizer.json`` to use as it is; required for kind ``file``."""


class ModelSpec(_Part, frozen=True, kw_only=True):
    """The network: a preset by name, any of whose dimensions may be replaced."""

    preset: str = "llama-3m"
    """A name from ``engine.contract.presets``."""
    family: Family | None = None
    layers: int | None = None
    layer_groups: int | None = None
    """Sets of weights that the layers share, each by as many consecutive layers (Lan et al. 2019, ALBERT); None: every
    layer has its own."""
    hidden: int | None = None
    """Width of the residual stream (of the LSTM cell for the lstm family)."""
    heads: int | None = None
    kv_heads: int | None = None
    """Key/value heads; fewer than ``heads`` is grouped-query attention."""
    head_size: int | None = None
    feed_forward: int | None = None
    """Width of the MLP's inner layer."""
    vocabulary: int | None = None
    """Rows of the embedding; None takes the tokenizer's size. More rows than tokens are padding."""
    positions: int | None = None
    """Longest sequence of learned positions; None takes ``data.sequence_length``."""
    tied_embeddings: bool | None = None
    bias: bool | None = None
    dropout: float | None = None
    rope_theta: float | None = None


class OptimSpec(_Part, frozen=True, kw_only=True):
    """Optimiser, batch, and learning-rate schedule."""

    name: OptimizerName = "adamw"
    lr: float = 1e-3
    """Peak learning rate."""
    batch_size: int | None = None
    """Sequences per optimiser step over all devices; None: 32, or what micro-batch and accumulation make."""
    schedule: ScheduleName = "cosine"
    warmup_steps: int = 20
    decay_fraction: float = 0.2
    """Share of all steps in which warmup-stable-decay decays."""
    final_lr_ratio: float = 0.1
    """Learning rate at the end over the peak, for schedules that decay."""
    weight_decay: float = 0.1
    """Applied to matrices only (not to norms and biases)."""
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    momentum: float = 0.9
    """Of SGD."""
    nesterov: bool = False
    clip_norm: float | None = 1.0
    """Largest global gradient norm; None does not clip."""
    label_smoothing: float = 0.0


class LayoutSpec(_Part, frozen=True, kw_only=True):
    """How model and batch lie over the devices."""

    strategy: Strategy = "auto"
    """Names the axis that takes the devices which the given sizes leave over; ``hybrid`` wants all sizes but one."""
    accelerator: Accelerator = "auto"
    devices: int | tuple[int, ...] | None = None
    """How many on each host, or which by index; None takes all accelerators, or on the CPU what the sizes need."""
    hosts: tuple[str, ...] | None = None
    """Machines by their ssh names, in the order of their ranks; ``localhost`` is this one. None: this one alone."""
    pp: int | None = None
    """Pipeline stages, side by side."""
    dp_replicate: int | None = None
    """Replicas of the whole model, or of its shards."""
    dp_shard: int | None = None
    """Ranks among which parameters, gradients and optimiser state are sharded."""
    cp: int | None = None
    """Ranks among which a sequence is split."""
    tp: int | None = None
    """Ranks among which each matrix is split."""
    schedule: Schedule | None = None
    """In which order a pipeline works; None: 1f1b."""
    virtual_stages: int | None = None
    """Stages of one rank, for the schedules that interleave; None: 2 there, 1 elsewhere."""
    stages: tuple[int, ...] | None = None
    """Layers of each pipeline stage, in order; None splits them evenly."""
    micro_batch: int | None = None
    """Sequences that one device processes at a time."""
    micro_batches: tuple[int, ...] | None = None
    """The same for each data-parallel rank, for devices of unequal speed; instead of ``micro_batch``."""
    accumulation: int | None = None
    """Micro-batches per device and step; None follows from batch size and micro-batch."""
    checkpointing: Checkpointing = "none"
    """Activation checkpointing: ``full`` computes a layer again in the backward pass, ``selective`` keeps the results
    of its matrix products and of attention."""
    checkpoint_every: int = 1
    """Only every so many layers."""
    loss_chunks: int = 1
    """Pieces in which head and loss are computed, so that only one piece's logits exist at a time."""
    offload_optimizer: bool = False
    """Keep the optimiser's state in the memory of the host, and update there."""
    precision: Precision = "fp32"
    compile: bool = False
    threads_per_worker: int | None = None
    """CPU threads of one worker; None shares the cores among the workers."""


class BudgetSpec(_Part, frozen=True, kw_only=True):
    """When to stop: at whichever of these comes first."""

    max_steps: int | None = None
    max_tokens: int | None = None
    max_epochs: float | None = None
    max_seconds: float | None = None
    """Seconds of training, over all resumes, data preparation not counted."""


class EvaluationSpec(_Part, frozen=True, kw_only=True):
    """How often, and on how much, the model is evaluated while it trains."""

    every_steps: int | None = 100
    """None evaluates only before the first step and at the end."""
    max_batches: int | None = 20
    """Batches of 8 sequences per evaluation, the same ones under every layout; None takes the whole validation set."""
    prompt: str = "\n"
    """Text that generated samples start from."""
    sample_tokens: int = 200
    """Length of a generated sample; 0 generates none."""
    temperature: float = 0.8
    top_k: int | None = 50


class CheckpointSpec(_Part, frozen=True, kw_only=True):
    """What is kept of the training state."""

    every_steps: int | None = 200
    """None writes one at the end only."""
    keep_last: int = 2
    keep_best: bool = True
    """Keep also the checkpoint with the lowest validation loss."""


class RunSpec(_Part, frozen=True, kw_only=True):
    """Everything that a person decides about one training."""

    name: str = "untitled"
    description: str = ""
    seed: int = 1337
    log_every_steps: int = 1
    data: DataSpec = DataSpec()
    tokenizer: TokenizerSpec = TokenizerSpec()
    model: ModelSpec = ModelSpec()
    optim: OptimSpec = OptimSpec()
    layout: LayoutSpec = LayoutSpec()
    budget: BudgetSpec = BudgetSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    checkpoint: CheckpointSpec = CheckpointSpec()
