"""Counts are those of the networks themselves, and presets are as large as their names say."""

from __future__ import annotations

import pytest
import torch

from engine.contract.presets import PRESETS, resolve_shape
from engine.contract.shape import ModelShape
from engine.contract.spec import ModelSpec
from engine.model.build import build_model
from engine.planner.shapes import flops_per_token, matmul_parameters, parameter_breakdown, parameter_count


def shape_of(preset: str, vocabulary: int, sequence_length: int = 1024, **dimensions: object) -> ModelShape:
    spec = ModelSpec(preset=preset, **dimensions)
    return resolve_shape(spec, vocabulary=vocabulary, sequence_length=sequence_length)


def built_count(shape: ModelShape) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_model(shape, seed=None).parameters())


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_counted_exactly(preset: str) -> None:
    for vocabulary, length in ((257, 128), (50257, 1024), (128256, 8192)):
        shape = shape_of(preset, vocabulary, length)
        assert parameter_count(shape) == built_count(shape)


@pytest.mark.parametrize("preset", ["llama-1m", "gpt2-1m", "lstm-1m"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_free_dimensions_are_counted_exactly(preset: str, bias: bool, tied: bool) -> None:
    dimensions = {"layers": 3, "hidden": 40, "heads": 5, "kv_heads": 1, "head_size": 6, "feed_forward": 33}
    shape = shape_of(preset, 99, 17, bias=bias, tied_embeddings=tied, **dimensions)
    assert parameter_count(shape) == built_count(shape)


@pytest.mark.parametrize("preset", ["llama-1m", "gpt2-1m"])
@pytest.mark.parametrize("groups", [1, 2, 3, 5])
def test_shared_layers_are_stored_once_and_computed_every_time(preset: str, groups: int) -> None:
    own = shape_of(preset, 99, 17, layers=5)
    shared = shape_of(preset, 99, 17, layers=5, layer_groups=groups)
    assert parameter_count(shared) == built_count(shared)
    assert (parameter_count(shared) == parameter_count(own)) is (groups == 5)
    assert flops_per_token(shared, 128) == flops_per_token(own, 128)


@pytest.mark.parametrize(
    ("preset", "vocabulary", "count"),
    [
        ("gpt2-124m", 50257, 124_439_808),
        ("gpt2-355m", 50257, 354_823_168),
        ("gpt2-774m", 50257, 774_030_080),
        ("gpt2-1.5b", 50257, 1_557_611_200),
        ("llama-1b", 128256, 1_235_814_400),
        ("llama-3b", 128256, 3_212_749_824),
        ("llama-7b", 32000, 6_738_415_616),
        ("llama-8b", 128256, 8_030_261_248),
        ("llama-13b", 32000, 13_015_864_320),
        ("llama-33b", 32000, 32_528_943_616),
        ("llama-70b", 32000, 68_976_648_192),
        ("llama-405b", 128256, 405_853_388_800),
    ],
)
def test_published_counts_are_met(preset: str, vocabulary: int, count: int) -> None:
    assert parameter_count(shape_of(preset, vocabulary)) == count


def original_vocabulary(preset: str) -> int:
    """The vocabulary that the number in the name was counted with."""
    if not PRESETS[preset].source:
        return 4096
    if preset.startswith(("gpt2", "gpt3")):
        return 50257
    if preset.startswith("lstm"):
        return 10_000
    return 128_256 if PRESETS[preset].rope_theta > 10_000 else 32_000


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_as_large_as_their_names_say(preset: str) -> None:
    size = preset.rpartition("-")[2]
    named = float(size[:-1]) * {"m": 1e6, "b": 1e9}[size[-1]]
    length = 2048 if preset.startswith("gpt3") else 1024 if PRESETS[preset].source else 256
    count = parameter_count(shape_of(preset, original_vocabulary(preset), length))
    # Llama 3.2 "1B" has 1.24 billion.
    assert count == pytest.approx(named, rel=0.25 if preset == "llama-1b" else 0.1)


@pytest.mark.parametrize("preset", ["gpt2-1m", "llama-3m", "llama-8b", "lstm-3m"])
def test_the_parts_are_those_of_the_modules(preset: str) -> None:
    shape = shape_of(preset, 4096)
    with torch.device("meta"):
        model = build_model(shape, seed=None)
    sums = dict.fromkeys(("embedding", "position", "attention", "mlp", "norm", "recurrent", "head"), 0)
    for name, parameter in model.named_parameters():
        part = next(
            kind
            for kind, marks in {
                "position": ("position_embedding",), "norm": ("norm.",), "embedding": ("embedding",),
                "attention": (".attention.",), "mlp": (".mlp.",), "recurrent": ("cells.",), "head": ("head.",),
            }.items()
            if any(mark in name for mark in marks)
        )  # fmt: skip
        sums[part] += parameter.numel()
    parts = parameter_breakdown(shape)
    assert {part: getattr(parts, part) for part in sums} == sums
    assert parts.total == parameter_count(shape)


def counted_flops(shape: ModelShape, length: int) -> int:
    """What torch's own counter sees in one forward and backward pass, a token."""
    from torch.utils.flop_counter import FlopCounterMode

    model = build_model(shape, seed=1)
    tokens = torch.zeros(2, length, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        model(tokens).sum().backward()
    return int(counter.get_total_flops()) // (2 * length)


@pytest.mark.parametrize(("preset", "tied"), [("gpt2-1m", True), ("llama-1m", True), ("llama-1m", False)])
def test_flops_are_those_that_torch_counts(preset: str, tied: bool) -> None:
    shape = shape_of(preset, 512, 64, tied_embeddings=tied)
    # Norms and biases are in the formula's N but are no matrix products: 1 %.
    assert flops_per_token(shape, 64) == pytest.approx(counted_flops(shape, 64), rel=0.02)


def test_flops_of_the_large_ones() -> None:
    """Grattafiori et al. 2024, section 3.2: 3.8e25 for 15.6e12 tokens at 405 B."""
    shape = shape_of("llama-405b", 128256)
    assert flops_per_token(shape, 8192) * 15.6e12 == pytest.approx(3.8e25, rel=0.1)
    lstm = shape_of("lstm-66m", 10_000)
    assert flops_per_token(lstm, 35) == flops_per_token(lstm, 1000) == 6 * matmul_parameters(lstm)
    assert matmul_parameters(lstm) == parameter_count(lstm) - 10_000 * 1500
