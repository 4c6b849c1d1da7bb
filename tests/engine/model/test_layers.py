"""The parts that are written by hand against plain formulas."""

from __future__ import annotations

import msgspec
import pytest
import torch

from engine.contract.presets import resolve_shape
from engine.contract.shape import RopeScaling
from engine.contract.spec import ModelSpec
from engine.model.layers import rotary_angles, rotary_frequencies, rotate
from engine.model.rmsnorm import RMSNorm

SHAPE = resolve_shape(ModelSpec(preset="llama-3m"), vocabulary=10, sequence_length=8)


def draw(*size: int) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [(2, 3, 24), (5, 24)])
def test_rmsnorm_and_its_gradients_are_those_of_torch(size: tuple[int, ...]) -> None:
    ours, theirs = RMSNorm(24, eps=1e-3), torch.nn.RMSNorm(24, eps=1e-3)
    with torch.no_grad():
        ours.weight.copy_(draw(24))
        theirs.weight.copy_(draw(24))
    inputs = [draw(*size).requires_grad_() for _ in range(2)]
    for norm, x in zip((ours, theirs), inputs, strict=True):
        norm(x).pow(3).sum().backward()
    torch.testing.assert_close(ours(inputs[0]), theirs(inputs[1]))
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, atol=1e-4, rtol=1e-5)


def test_rmsnorm_of_zeros_has_finite_gradients() -> None:
    x = torch.zeros(2, 8, requires_grad=True)
    RMSNorm(8, eps=1e-5)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_rotation_multiplies_complex_pairs_and_depends_on_distance_alone() -> None:
    query, key = draw(1, 1, 2, 32), draw(1, 1, 2, 32).flip(-1)
    rotation = rotary_angles(SHAPE, torch.tensor([7]))
    turned = rotate(query, rotation)
    pairs = torch.complex(query[..., :16], query[..., 16:])
    expected = pairs * torch.polar(torch.ones(16), 7 * 10_000.0 ** (-torch.arange(16) / 16))
    torch.testing.assert_close(turned, torch.cat((expected.real, expected.imag), -1))

    def score(at: int, seen: int) -> torch.Tensor:
        a, b = (rotary_angles(SHAPE, torch.tensor([place])) for place in (at, seen))
        return (rotate(query, a) * rotate(key, b)).sum(-1)

    torch.testing.assert_close(score(9, 4), score(105, 100), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(score(9, 4), score(9, 5))


def test_stretching_slows_only_what_turns_slowly() -> None:
    scaling = RopeScaling(factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_positions=64)
    plain = rotary_frequencies(SHAPE, torch.device("cpu"))
    stretched = rotary_frequencies(msgspec.structs.replace(SHAPE, rope_scaling=scaling), torch.device("cpu"))
    turns = 64 * plain / (2 * torch.pi)
    assert torch.equal(stretched[turns > 4], plain[turns > 4])
    torch.testing.assert_close(stretched[turns < 1], plain[turns < 1] / 8)
    between = (turns > 1) & (turns < 4)
    assert between.any()
    assert ((stretched < plain) & (stretched > plain / 8))[between].all()
