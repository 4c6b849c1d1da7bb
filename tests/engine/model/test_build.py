"""First weights, first loss, and what parallelism from outside relies on."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from engine.contract.presets import resolve_shape
from engine.contract.shape import ModelShape
from engine.contract.spec import ModelSpec
from engine.model.build import build_model, initialise

FAMILIES = ("llama-1m", "gpt2-1m", "lstm-1m")


def small(preset: str, **dimensions: object) -> ModelShape:
    return resolve_shape(
        ModelSpec(preset=preset, **({"layers": 2, "hidden": 32} | dimensions)), vocabulary=100, sequence_length=16
    )


def some_tokens(vocabulary: int = 100, batch: int = 2, length: int = 16) -> torch.Tensor:
    return torch.randint(0, vocabulary, (batch, length), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("preset", FAMILIES)
def test_the_seed_alone_decides_the_weights(preset: str) -> None:
    shape = small(preset)
    state = torch.get_rng_state()
    one, same, other = (build_model(shape, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["embedding.weight"], other["embedding.weight"])


@pytest.mark.parametrize("preset", ["llama-1m", "gpt2-1m", "lstm-1m", "llama-3m"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_first_loss_is_that_of_a_uniform_guess(preset: str, tied: bool) -> None:
    shape = resolve_shape(ModelSpec(preset=preset, tied_embeddings=tied), vocabulary=4096, sequence_length=64)
    tokens = some_tokens(4096, 4, 65)
    with torch.no_grad():
        logits = build_model(shape, seed=0)(tokens[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert float(loss) == pytest.approx(math.log(4096), abs=0.1)


def test_the_first_loss_of_a_wide_model_is_not_larger() -> None:
    shape = small("llama-1m", layers=1, hidden=4096, heads=32, feed_forward=64, tied_embeddings=False)
    tokens = some_tokens(100, 4, 17)
    with torch.no_grad():
        logits = build_model(shape, seed=0)(tokens[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert float(loss) == pytest.approx(math.log(100), abs=0.4)


@pytest.mark.parametrize("preset", FAMILIES)
def test_no_position_sees_what_comes_after_it(preset: str) -> None:
    model = build_model(small(preset), seed=1).eval()
    tokens = some_tokens()
    changed = tokens.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % 100
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :9], after[:, :9])
    assert not torch.allclose(before[:, 9:], after[:, 9:])


@pytest.mark.parametrize("preset", FAMILIES)
def test_order_matters_and_every_weight_is_trained(preset: str) -> None:
    model = build_model(small(preset, tied_embeddings=False), seed=1)
    tokens = some_tokens()
    model(tokens).pow(2).sum().backward()
    assert not [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    swapped = tokens.clone()
    swapped[:, [0, 1]] = swapped[:, [1, 0]]
    with torch.no_grad():
        assert not torch.allclose(model(tokens)[:, -1], model(swapped)[:, -1], atol=1e-7)


@pytest.mark.parametrize("preset", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_meta_models_become_real_ones(preset: str, tied: bool) -> None:
    shape = small(preset, tied_embeddings=tied)
    with torch.device("meta"):
        model = build_model(shape, seed=None)
    assert all(parameter.is_meta for parameter in model.parameters())
    model.to_empty(device="cpu")
    model.tie_weights()
    initialise(model, shape, seed=7)
    assert (model.head.weight is model.embedding.weight) is tied
    tokens = some_tokens()
    torch.testing.assert_close(model(tokens), build_model(shape, seed=7)(tokens))


@pytest.mark.parametrize("preset", ["llama-1m", "gpt2-1m"])
def test_stages_of_a_pipeline_compute_what_the_whole_does(preset: str) -> None:
    shape = small(preset, layers=3, tied_embeddings=False)
    whole, first, second = (build_model(shape, seed=1).eval() for _ in range(3))
    del first.layers["1"], first.layers["2"], second.layers["0"]
    first.order, second.order = ["0"], ["1", "2"]
    first.norm = first.head = None
    second.embedding = second.position_embedding = None
    tokens = some_tokens()
    with torch.no_grad():
        torch.testing.assert_close(second(first(tokens)), whole(tokens))


def test_dropout_acts_in_training_only() -> None:
    for preset in FAMILIES:
        model = build_model(small(preset, dropout=0.5), seed=1)
        tokens = some_tokens()
        assert not torch.allclose(model(tokens), model(tokens))
        model.eval()
        assert torch.equal(model(tokens), model(tokens))


def test_rotation_keeps_bfloat16() -> None:
    model = build_model(small("llama-1m", heads=4, kv_heads=2), seed=1).eval()
    tokens = some_tokens()
    with torch.no_grad():
        exact = model(tokens)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(tokens)
        halved = model.to(torch.bfloat16)(tokens)
    assert mixed.dtype == halved.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.float(), exact, atol=0.02, rtol=0.05)
    torch.testing.assert_close(halved.float(), exact, atol=0.02, rtol=0.05)


@pytest.mark.parametrize("preset", ["llama-1m", "gpt2-1m"])
def test_the_decoder_is_one_graph(preset: str) -> None:
    model = build_model(small(preset, heads=4, kv_heads=2), seed=1)
    tokens = some_tokens()
    explained = torch._dynamo.explain(model)(tokens)
    assert explained.graph_break_count == 0, explained.break_reasons
