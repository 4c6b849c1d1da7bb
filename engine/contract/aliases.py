"""Names that other trainers use for the same decisions.

Transformers' ``TrainingArguments``, LitGPT, nanoGPT, torchtitan and Megatron-LM call the same things by
different names; people bring their habits and their files. An alias is accepted at the top level and in the
table its field belongs to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.contract.errors import Problem

ALIASES: dict[str, str] = {
    "dataset": "data.source", "dataset_name": "data.source", "train_file": "data.source",
    "block_size": "data.sequence_length", "seq_len": "data.sequence_length", "seq_length": "data.sequence_length",
    "max_seq_length": "data.sequence_length", "max_seq_len": "data.sequence_length",
    "sequence_len": "data.sequence_length", "cutoff_len": "data.sequence_length",
    "context_length": "data.sequence_length", "text_column": "data.text_field",
    "val_size": "data.validation_fraction", "val_set_size": "data.validation_fraction",
    "max_samples": "data.max_documents",
    "vocab_size": "tokenizer.vocabulary", "tokenizer_file": "tokenizer.file",
    "n_layer": "model.layers", "n_layers": "model.layers", "num_layers": "model.layers",
    "num_hidden_layers": "model.layers", "n_embd": "model.hidden", "hidden_size": "model.hidden",
    "d_model": "model.hidden", "n_head": "model.heads", "n_heads": "model.heads",
    "num_attention_heads": "model.heads", "num_key_value_heads": "model.kv_heads",
    "n_query_groups": "model.kv_heads", "num_query_groups": "model.kv_heads", "head_dim": "model.head_size",
    "num_hidden_groups": "model.layer_groups",
    "intermediate_size": "model.feed_forward", "ffn_hidden_size": "model.feed_forward",
    "tie_word_embeddings": "model.tied_embeddings", "max_position_embeddings": "model.positions",
    "optimizer": "optim.name", "learning_rate": "optim.lr", "global_batch_size": "optim.batch_size",
    "lr_scheduler": "optim.schedule", "lr_scheduler_type": "optim.schedule", "lr_warmup_steps": "optim.warmup_steps",
    "warmup_iters": "optim.warmup_steps", "adam_beta1": "optim.beta1", "adam_beta2": "optim.beta2",
    "adam_epsilon": "optim.eps", "max_grad_norm": "optim.clip_norm", "grad_clip": "optim.clip_norm",
    "max_norm": "optim.clip_norm", "gradient_clip_val": "optim.clip_norm",
    "label_smoothing_factor": "optim.label_smoothing",
    "micro_batch_size": "layout.micro_batch", "per_device_train_batch_size": "layout.micro_batch",
    "device_batch_size": "layout.micro_batch",
    "gradient_accumulation_steps": "layout.accumulation", "accumulate_grad_batches": "layout.accumulation",
    "grad_accum_steps": "layout.accumulation",
    "tensor_parallel_size": "layout.tp", "tensor_parallel_degree": "layout.tp", "tp_size": "layout.tp",
    "tensor_model_parallel_size": "layout.tp", "pipeline_parallel_size": "layout.pp",
    "pipeline_parallel_degree": "layout.pp", "pipeline_model_parallel_size": "layout.pp", "pp_size": "layout.pp",
    "context_parallel_degree": "layout.cp", "context_parallel_size": "layout.cp", "cp_size": "layout.cp",
    "data_parallel_replicate_degree": "layout.dp_replicate", "dp_replicate_size": "layout.dp_replicate",
    "data_parallel_shard_degree": "layout.dp_shard", "dp_shard_size": "layout.dp_shard",
    "data_parallel_size": "layout.dp_replicate", "data_parallel_replicate_size": "layout.dp_replicate",
    "data_parallel_shard_size": "layout.dp_shard", "pipeline_parallel_schedule": "layout.schedule",
    "pipeline_schedule": "layout.schedule", "virtual_pipeline_model_parallel_size": "layout.virtual_stages",
    "num_virtual_stages_per_pipeline_rank": "layout.virtual_stages", "sharding_strategy": "layout.strategy",
    "activation_checkpointing": "layout.checkpointing", "recompute_granularity": "layout.checkpointing",
    "optimizer_cpu_offload": "layout.offload_optimizer", "mixed_precision": "layout.precision",
    "max_iters": "budget.max_steps", "train_iters": "budget.max_steps", "num_train_epochs": "budget.max_epochs",
    "num_epochs": "budget.max_epochs", "epochs": "budget.max_epochs",
    "eval_steps": "evaluation.every_steps", "eval_interval": "evaluation.every_steps",
    "eval_iters": "evaluation.max_batches",
    "save_steps": "checkpoint.every_steps", "save_interval": "checkpoint.every_steps",
    "save_total_limit": "checkpoint.keep_last",
    "logging_steps": "log_every_steps", "log_interval": "log_every_steps",
    "run_name": "name", "random_seed": "seed",
    # Plain names of fields, so that the most common ones need no table.
    "lr": "optim.lr", "batch_size": "optim.batch_size", "weight_decay": "optim.weight_decay",
    "warmup_steps": "optim.warmup_steps", "max_steps": "budget.max_steps", "max_tokens": "budget.max_tokens",
    "max_epochs": "budget.max_epochs", "precision": "layout.precision", "devices": "layout.devices",
    "strategy": "layout.strategy", "accelerator": "layout.accelerator", "compile": "layout.compile",
}  # fmt: skip
"""Other name -> our dotted field."""

VALUES: dict[str, dict[Any, Any]] = {
    "layout.precision": {
        "32": "fp32", 32: "fp32", "32-true": "fp32", "float32": "fp32", "no": "fp32",
        "bf16": "bf16-mixed", "bfloat16": "bf16-mixed", "fp16": "fp16-mixed", "float16": "fp16-mixed", 16: "fp16-mixed",
        "16": "fp16-mixed", "16-mixed": "fp16-mixed", "float8": "fp8", "transformer-engine": "fp8",
    },
    "layout.strategy": {
        "FULL_SHARD": "fsdp", "full_shard": "fsdp", "fsdp2": "fsdp", "zero3": "fsdp", "zero-3": "fsdp",
        "zero_3": "fsdp", "deepspeed_stage_3": "fsdp", "SHARD_GRAD_OP": "zero2", "zero-2": "zero2",
        "shard_grad_op": "zero2", "zero_2": "zero2", "deepspeed_stage_2": "zero2", "HYBRID_SHARD": "hsdp",
        "hybrid_shard": "hsdp", "NO_SHARD": "ddp", "no_shard": "ddp", "tp": "tensor", "tensor_parallel": "tensor",
        "pp": "pipeline", "pipeline_parallel": "pipeline", "3d": "hybrid", "single_device": "single",
        "DDP": "ddp", "FSDP": "fsdp",
    },
    "layout.schedule": {
        "GPipe": "gpipe", "1F1B": "1f1b", "interleaved": "interleaved-1f1b", "Interleaved1F1B": "interleaved-1f1b",
        "InterleavedZeroBubble": "zero-bubble", "zb": "zero-bubble", "zb1p": "zero-bubble", "zbv": "zero-bubble-v",
        "ZBVZeroBubble": "zero-bubble-v",
    },
    "layout.checkpointing": {"off": "none", "false": "none", "uniform": "full", "true": "full"},
    "optim.schedule": {"wsd": "warmup-stable-decay", "warmup_stable_decay": "warmup-stable-decay"},
    "optim.name": {
        "adamw_torch": "adamw", "adamw_torch_fused": "adamw", "AdamW": "adamw", "Adam": "adam", "SGD": "sgd",
        "Adafactor": "adafactor", "Muon": "muon",
    },
}  # fmt: skip
"""Other spellings of values, by field."""

_FLAGS: dict[str, tuple[str, Any, Any]] = {
    "bf16": ("layout.precision", "bf16-mixed", "fp32"),
    "fp16": ("layout.precision", "fp16-mixed", "fp32"),
    "gradient_checkpointing": ("layout.checkpointing", "full", "none"),
    "activation_checkpointing": ("layout.checkpointing", "full", "none"),
    "torch_compile": ("layout.compile", True, False),
}
"""Switches of other trainers: field, value when true, value when false."""


def expand_aliases(tree: Mapping[str, Any], problems: list[Problem]) -> dict[str, Any]:
    """A copy of ``tree`` with other trainers' names and spellings replaced by ours.

    A field given under two names with different values is added to ``problems``.
    """
    tables: dict[str, Any] = {key: dict(value) if isinstance(value, Mapping) else value for key, value in tree.items()}
    result: dict[str, Any] = {}
    found: dict[str, tuple[str, Any]] = {}
    for key, value in tables.items():
        if isinstance(value, dict):
            result.setdefault(key, {})
            for name, item in value.items():
                own = f"{key}.{name}"
                target, given = _translate(name, item)
                use = target if target and target.startswith(f"{key}.") else own
                _place(result, found, use, own, given, problems, weak=name in _FLAGS and item is False)
        else:
            target, given = _translate(key, value)
            _place(result, found, target or key, key, given, problems, weak=key in _FLAGS and value is False)
    return result


def _translate(name: str, value: Any) -> tuple[str | None, Any]:
    if name in _FLAGS and isinstance(value, bool):
        field, when_true, when_false = _FLAGS[name]
        return field, when_true if value else when_false
    return ALIASES.get(name), value


def _place(
    result: dict[str, Any], found: dict[str, tuple[str, Any]], field: str, given: str, value: Any,
    problems: list[Problem], *, weak: bool,
) -> None:  # fmt: skip
    """Put ``value`` where it belongs. A ``weak`` one, from a switch that is off, gives way to any other."""
    if weak and field in found:
        return
    spellings = VALUES.get(field, {})
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        value = spellings.get(value, value)
    if field in found and found[field][1] != value:
        problems.append(
            Problem(
                field=field,
                message=f"is given twice: {found[field][0]} = {found[field][1]!r} and {given} = {value!r}",
                hint="keep one of them",
            )
        )
        return
    if not weak:
        found[field] = (given, value)
    table, dot, leaf = field.rpartition(".")
    if dot and isinstance(result.setdefault(table, {}), dict):
        result[table][leaf] = value
    else:
        result[field] = value
