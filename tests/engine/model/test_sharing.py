"""Layers that share weights: one set is stored, used and trained in several places."""

from __future__ import annotations

import pytest
import torch

from engine.contract.presets import resolve_shape, shape_problems
from engine.contract.shape import ModelShape
from engine.contract.spec import ModelSpec
from engine.model.build import build_model


def shape(groups: int | None, preset: str = "llama-1m") -> ModelShape:
    spec = ModelSpec(preset=preset, layers=5, layer_groups=groups, hidden=32, heads=4)
    return resolve_shape(spec, vocabulary=50, sequence_length=8)


def objective(model: torch.nn.Module) -> torch.Tensor:
    tokens = torch.randint(50, (3, 9), generator=torch.Generator().manual_seed(1))
    result: torch.Tensor = model(tokens[:, :-1], targets=tokens[:, 1:])[0]
    return result


@pytest.mark.parametrize("preset", ["llama-1m", "gpt2-1m"])
def test_a_shared_network_is_the_unshared_one_with_equal_layers(preset: str) -> None:
    shared, apart = build_model(shape(2, preset), seed=1), build_model(shape(None, preset), seed=1)
    assert shared.order == ["0", "0", "0", "1", "1"]
    state = {name: value for name, value in shared.state_dict().items() if not name.startswith("layers.")}
    for number, name in enumerate(shared.order):
        for key, value in shared.layers[name].state_dict().items():
            state[f"layers.{number}.{key}"] = value
    apart.load_state_dict(state)
    for model in (shared, apart):
        objective(model).backward()
    torch.testing.assert_close(objective(shared), objective(apart))
    for name, value in shared.named_parameters():
        if name.startswith("layers."):
            _, first, rest = name.split(".", 2)
            places = [number for number, used in enumerate(shared.order) if used == first]
            grads = [apart.get_parameter(f"layers.{number}.{rest}").grad for number in places]
            assert len(grads) == (3 if first == "0" else 2)
            torch.testing.assert_close(value.grad, sum(grads), rtol=1e-4, atol=1e-5)


def test_residual_projections_start_as_small_as_the_depth_wants_whatever_is_shared() -> None:
    weights = [build_model(shape(groups), seed=3).layers["0"].mlp.down.weight for groups in (None, 1, 3)]
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("dimensions", "words"),
    [
        ({"layers": 4, "layer_groups": 0}, "at least 1"),
        ({"layers": 4, "layer_groups": 5}, "4 layers cannot use 5 sets"),
        ({"preset": "lstm-1m", "layer_groups": 1}, "LSTM"),
        ({"family": "lstm", "layer_groups": 2}, "LSTM"),
    ],
)
def test_what_cannot_be_shared_is_a_problem_of_its_field(dimensions: dict[str, object], words: str) -> None:
    (problem,) = shape_problems(ModelSpec(**dimensions))
    assert problem.field == "model.layer_groups"
    assert words in problem.message


@pytest.mark.parametrize("groups", [1, 3, 4])
def test_any_number_of_groups_up_to_that_of_the_layers_is_sound(groups: int) -> None:
    assert shape_problems(ModelSpec(layers=4, layer_groups=groups)) == []
