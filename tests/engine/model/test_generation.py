"""Generating with a cache gives what recomputing everything gives."""

from __future__ import annotations

import pytest
import torch

from engine.contract.errors import TraindeckError
from engine.contract.presets import resolve_shape
from engine.contract.spec import ModelSpec
from engine.model.build import LanguageModel, build_model
from engine.model.generation import generate, window_start

CONTEXT = 12
FAMILIES = {
    "llama": ModelSpec(preset="llama-1m", layers=2, hidden=32, heads=4, kv_heads=2, tied_embeddings=False),
    "gpt2": ModelSpec(preset="gpt2-1m", layers=2, hidden=32, heads=4, dropout=0.3, tied_embeddings=False),
    "shared": ModelSpec(preset="llama-1m", layers=3, layer_groups=2, hidden=32, heads=4, tied_embeddings=False),
    "lstm": ModelSpec(preset="lstm-1m", layers=2, hidden=32, dropout=0.3, tied_embeddings=False),
}


def lively(family: str) -> LanguageModel:
    """A model whose greedy text is not one token for ever."""
    model = build_model(resolve_shape(FAMILIES[family], vocabulary=50, sequence_length=CONTEXT), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def prompt(length: int) -> torch.Tensor:
    return torch.randint(0, 50, (1, length), generator=torch.Generator().manual_seed(length))


@torch.no_grad()
def greedy_without_cache(model: LanguageModel, tokens: torch.Tensor, new_tokens: int, context: int) -> torch.Tensor:
    model.eval()
    for _ in range(new_tokens):
        start = 0 if model.shape.family == "lstm" else window_start(tokens.shape[1], context)
        logits = model(tokens[:, start:])[:, -1]
        tokens = torch.cat((tokens, logits.argmax(-1, keepdim=True)), dim=1)
    return tokens


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("length", "context"), [(1, CONTEXT), (5, CONTEXT), (12, CONTEXT), (30, CONTEXT), (3, 1)])
def test_cached_text_is_the_uncached_text_far_beyond_the_context(family: str, length: int, context: int) -> None:
    model = lively(family)
    expected = greedy_without_cache(model, prompt(length), 40, context)
    text = generate(model, prompt(length), new_tokens=40, temperature=0, top_k=None, context=context)
    assert torch.equal(text, expected)
    if context > 1:
        assert len(set(text[0, length:].tolist())) > 3


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cache_takes_several_tokens_at_a_time(family: str) -> None:
    model = lively(family).eval()
    tokens = prompt(10)
    cache = model.new_cache(10)
    with torch.no_grad():
        whole = model(tokens)
        for start, end in ((0, 4), (4, 9), (9, 10)):
            torch.testing.assert_close(model(tokens[:, start:end], cache)[:, 0], whole[:, end - 1])
    if family != "lstm":
        with pytest.raises(IndexError, match="11 positions"):
            model(tokens[:, :1], cache)


def test_the_window_is_never_longer_than_the_context_nor_shorter_than_half() -> None:
    for context in (1, 2, 3, 12, 13):
        for length in range(1, 60):
            seen = length - window_start(length, context)
            assert min(length, context // 2 + 1, context) <= seen <= context


@pytest.mark.parametrize("family", FAMILIES)
def test_the_generator_decides_the_text(family: str) -> None:
    model = lively(family)

    def text(seed: int) -> list[int]:
        drawn = generate(
            model, prompt(3), new_tokens=20, temperature=1.0, top_k=10, context=CONTEXT,
            generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip
        return list(drawn[0].tolist())

    assert text(1) == text(1) != text(2)
    assert text(1)[:3] == prompt(3)[0].tolist()


def test_top_k_one_is_greedy_and_padding_is_never_drawn() -> None:
    model = lively("llama")
    choices = {"new_tokens": 30, "context": CONTEXT, "generator": torch.Generator().manual_seed(1)}
    greedy = generate(model, prompt(3), temperature=0, top_k=None, **choices)
    assert torch.equal(generate(model, prompt(3), temperature=5.0, top_k=1, **choices), greedy)
    within = generate(model, prompt(3) % 7, temperature=5.0, top_k=None, vocabulary=7, **choices)
    assert int(within.max()) < 7
    assert len(within.unique()) > 4


def test_temperature_sharpens() -> None:
    model = lively("gpt2")
    kinds = [
        len(
            generate(
                model, prompt(1), new_tokens=150, temperature=temperature, top_k=None, context=CONTEXT,
                generator=torch.Generator().manual_seed(1),
            ).unique()
        )
        for temperature in (0.01, 50.0)
    ]  # fmt: skip
    assert kinds[0] < kinds[1]


def test_the_end_of_the_document_ends_the_text_and_the_mode_is_restored() -> None:
    model = lively("lstm")
    model.train()
    free = generate(model, prompt(2), new_tokens=30, temperature=0, top_k=None, context=CONTEXT)[0].tolist()
    end = free[10]
    cut = generate(model, prompt(2), new_tokens=30, temperature=0, top_k=None, context=CONTEXT, eos_id=end)
    assert cut[0].tolist() == free[: free.index(end, 2) + 1]
    assert model.training


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": 0}, {"new_tokens": -1}, {"context": 0}]
)
def test_senseless_requests_are_refused(wrong: dict[str, float]) -> None:
    sound = {"new_tokens": 1, "temperature": 1.0, "top_k": None, "context": CONTEXT}
    with pytest.raises(TraindeckError):
        generate(lively("llama"), prompt(3), **(sound | wrong))
    with pytest.raises(TraindeckError, match="no tokens"):
        generate(lively("llama"), prompt(3)[:, :0], **sound)
