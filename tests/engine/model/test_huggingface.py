"""transformers is the oracle: the same weights give the same numbers, in both directions."""

from __future__ import annotations

import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import msgspec
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from engine.contract.errors import ModelError
from engine.contract.presets import resolve_shape
from engine.contract.shape import ModelShape, RopeScaling
from engine.contract.spec import ModelSpec
from engine.model.build import build_model
from engine.model.huggingface import export_folder, import_folder

TOKENS = torch.randint(0, 300, (2, 32), generator=torch.Generator().manual_seed(5))
STRETCHED = RopeScaling(factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_positions=16)


def small(family: str, **changes: object) -> ModelShape:
    spec = ModelSpec(preset=f"{family}-1m", layers=2, hidden=64, heads=4, feed_forward=96)
    shape = resolve_shape(spec, vocabulary=300, sequence_length=32)
    return msgspec.structs.replace(shape, **changes)


def lively(model: torch.nn.Module) -> torch.nn.Module:
    """Random weights of a size at which mistakes show: no zero biases, no norms of one, no tiny logits."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def assert_same_logits(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    with torch.no_grad():
        torch.testing.assert_close(ours(TOKENS), theirs(TOKENS).logits, atol=1e-5, rtol=1e-5)


SHAPES = {
    "llama": small("llama"),
    "llama grouped heads": small("llama", kv_heads=2),
    "llama untied": small("llama", tied_embeddings=False, kv_heads=1),
    "llama another theta": small("llama", rope_theta=500_000.0, norm_eps=1e-6),
    "llama stretched": small("llama", rope_theta=50.0, rope_scaling=STRETCHED),
    "llama wide heads": small("llama", head_size=32),
    "llama biases": small("llama", bias=True),
    "gpt2": small("gpt2"),
    "gpt2 untied": small("gpt2", tied_embeddings=False),
    "gpt2 without biases": small("gpt2", bias=False),
    "gpt2 grouped heads": small("gpt2", kv_heads=2),
    "gpt2 narrow MLP": small("gpt2", feed_forward=40, norm_eps=1e-3),
}


@pytest.mark.parametrize("name", SHAPES)
def test_exported_model_computes_the_same_in_transformers(name: str, tmp_path: Path) -> None:
    shape = SHAPES[name]
    model = lively(build_model(shape, seed=1))
    export_folder(model, shape, tmp_path, None)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert_same_logits(model, theirs)


@pytest.mark.parametrize("name", SHAPES)
def test_what_was_exported_is_imported_again(name: str, tmp_path: Path) -> None:
    shape = SHAPES[name]
    model = lively(build_model(shape, seed=1))
    export_folder(model, shape, tmp_path, None)
    again, weights = import_folder(tmp_path)
    imported = build_model(again, seed=None, device="cpu").eval()
    imported.load_state_dict(weights)
    with torch.no_grad():
        torch.testing.assert_close(imported(TOKENS), model(TOKENS), atol=1e-5, rtol=1e-5)
    if "gpt2" not in name or (shape.bias and shape.kv_heads == shape.heads):
        assert again == shape


LLAMA = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 64,
}  # fmt: skip
STRETCH = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16, "rope_theta": 100.0,
}  # fmt: skip
CONFIGS = {
    "llama": transformers.LlamaConfig(**LLAMA),
    "llama grouped": transformers.LlamaConfig(**LLAMA, num_key_value_heads=2, tie_word_embeddings=True),
    "llama theta": transformers.LlamaConfig(**LLAMA, rope_parameters={"rope_type": "default", "rope_theta": 99.0}),
    "llama 3.1": transformers.LlamaConfig(**LLAMA, rope_parameters=STRETCH),
    "llama attention bias": transformers.LlamaConfig(**LLAMA, attention_bias=True),
    "llama head size": transformers.LlamaConfig(**LLAMA, head_dim=24),
    "gpt2": transformers.GPT2Config(vocab_size=300, n_embd=64, n_layer=2, n_head=4, n_positions=32),
    "gpt2 untied": transformers.GPT2Config(
        vocab_size=300, n_embd=64, n_layer=2, n_head=4, n_positions=32, tie_word_embeddings=False
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_imported_model_computes_what_transformers_does(name: str, tmp_path: Path) -> None:
    theirs = lively(transformers.AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.float32))
    theirs.save_pretrained(tmp_path)
    shape, weights = import_folder(tmp_path)
    ours = build_model(shape, seed=None, device="cpu").eval()
    ours.load_state_dict(weights)
    assert_same_logits(ours, theirs)


def test_shards_and_fields_of_transformers_4_are_read(tmp_path: Path) -> None:
    theirs = lively(transformers.LlamaForCausalLM(CONFIGS["llama 3.1"]))
    theirs.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    config = json.loads((tmp_path / "config.json").read_text())
    stretch = config.pop("rope_parameters")
    config |= {"rope_theta": stretch.pop("rope_theta"), "rope_scaling": stretch}
    (tmp_path / "config.json").write_text(json.dumps(config))
    shape, weights = import_folder(tmp_path)
    ours = build_model(shape, seed=None, device="cpu").eval()
    ours.load_state_dict(weights)
    assert_same_logits(ours, theirs)


def test_names_of_the_bare_network_and_its_buffers_are_understood(tmp_path: Path) -> None:
    theirs = lively(transformers.GPT2LMHeadModel(CONFIGS["gpt2"]))
    theirs.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    bare["h.0.attn.bias"] = torch.ones(1, 1, 32, 32)
    save_file(bare, tmp_path / "model.safetensors")
    shape, imported = import_folder(tmp_path)
    ours = build_model(shape, seed=None, device="cpu").eval()
    ours.load_state_dict(imported)
    assert_same_logits(ours, theirs)


@pytest.mark.parametrize("end", ["<eos>", "[EOS]"])
def test_the_tokenizer_travels_along(tmp_path: Path, end: str) -> None:
    words = {end: 0, "<unk>": 1, "a": 2, "b": 3}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.add_special_tokens([end, "<unk>"])
    tokenizer.save(str(tmp_path / "own.json"))
    shape = small("llama")
    export_folder(build_model(shape, seed=1), shape, tmp_path / "out", tmp_path / "own.json")
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert loaded("abba?")["input_ids"] == [2, 3, 3, 2, 1]
    assert (loaded.eos_token, loaded.eos_token_id, loaded.unk_token) == (end, 0, "<unk>")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.generation_config.eos_token_id == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip


def exported(folder: Path, **config: object) -> Path:
    shape = small("llama")
    export_folder(build_model(shape, seed=1), shape, folder, None)
    fields = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"architectures": ["MistralForCausalLM"], "model_type": "mistral"}, "MistralForCausalLM"),
        ({"architectures": None, "model_type": "qwen3\x1b[2J"}, r"'qwen3\\x1b\[2J'"),
        ({"architectures": [], "model_type": ""}, "without a name"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ({"hidden_act": "relu"}, "relu"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"num_key_value_heads": 3}, "num_key_value_heads 3"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_hidden_layers": 3}, "missing weights: 'layers.2."),
        ({"num_hidden_layers": 1}, "unknown weights: 'model.layers.1."),
        ({"vocab_size": 301}, r"embedding.weight is \(300, 64\), not \(301, 64\)"),
    ],
)
def test_a_folder_that_is_not_ours_is_refused_by_name(config: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=words):
        import_folder(exported(tmp_path, **config))


def test_damaged_missing_and_pickled_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a model folder"):
        import_folder(tmp_path)
    weights = exported(tmp_path) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="cannot be read"):
        import_folder(tmp_path)
    weights.unlink()
    with pytest.raises(ModelError, match="no weights"):
        import_folder(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="save_pretrained"):
        import_folder(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"lm_head.weight": "../secret"}}')
    with pytest.raises(ModelError, match="outside its folder"):
        import_folder(tmp_path)
    for damaged in (b"{", b'{"model_type": "\xff"}'):
        (tmp_path / "config.json").write_bytes(damaged)
        with pytest.raises(ModelError, match=r"config\.json cannot be read"):
            import_folder(tmp_path)


def test_what_transformers_does_not_have_is_not_exported(tmp_path: Path) -> None:
    lstm = resolve_shape(ModelSpec(preset="lstm-1m", hidden=16), vocabulary=300, sequence_length=32)
    with pytest.raises(ModelError, match="'lstm' cannot be exported"):
        export_folder(build_model(lstm, seed=1), lstm, tmp_path / "out", None)
    wide = small("gpt2", head_size=32)
    with pytest.raises(ModelError, match=r"model\.head_size"):
        export_folder(build_model(wide, seed=1), wide, tmp_path / "out", None)
    shared = small("llama", layers=4, layer_groups=2)
    with pytest.raises(ModelError, match="share weights"):
        export_folder(build_model(shared, seed=1), shared, tmp_path / "out", None)
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="could not be exported"):
        export_folder(build_model(small("llama"), seed=1), small("llama"), tmp_path / "file", None)
    with pytest.raises(ModelError, match="tokenizer cannot be read"):
        export_folder(build_model(small("llama"), seed=1), small("llama"), tmp_path / "out", tmp_path / "file")
