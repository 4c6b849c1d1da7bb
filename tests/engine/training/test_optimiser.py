from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from engine.contract.presets import resolve_shape
from engine.contract.spec import ModelSpec, OptimSpec
from engine.model.build import build_model
from engine.training.optimiser import build_optimiser, parameter_groups, set_learning_rate

CPU = torch.device("cpu")
SHAPE = resolve_shape(ModelSpec(preset="llama-1m", layers=1, hidden=32), vocabulary=50, sequence_length=8)


def network() -> nn.Module:
    return nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 5))


REFERENCES = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.02, momentum=0.8, nesterov=True),
    "adam": lambda groups: torch.optim.Adam(groups, lr=0.02, betas=(0.9, 0.95)),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.02, betas=(0.9, 0.95)),
    "adafactor": lambda groups: torch.optim.Adafactor(groups, lr=0.02),
}
"""torch's own, as ``optim`` below sets them."""


def optim_of(name: str) -> OptimSpec:
    return OptimSpec(name=name, lr=0.01, weight_decay=0.3, momentum=0.8, nesterov=True)


def train(model: nn.Module, optimiser: torch.optim.Optimizer, steps: int = 5) -> None:
    tokens = torch.arange(18).view(6, 3) % 5
    for _ in range(steps):
        set_learning_rate(optimiser, 0.02)
        optimiser.zero_grad()
        model(tokens).square().mean().backward()
        optimiser.step()


def twins() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(3)
    one, other = network(), network()
    other.load_state_dict(one.state_dict())
    return one, other


def assert_same(one: nn.Module, other: nn.Module) -> None:
    for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", list(REFERENCES))
def test_each_name_is_torchs_own_and_decays_matrices_alone(name):
    ours, theirs = twins()
    optimiser = build_optimiser(ours, optim_of(name), CPU)
    decayed, plain = optimiser.param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    assert {parameter.ndim for parameter in decayed["params"]} == {2}
    assert {parameter.ndim for parameter in plain["params"]} == {1}
    assert sum(len(group["params"]) for group in optimiser.param_groups) == len(list(ours.parameters()))
    if name != "adafactor":
        assert decayed["fused"] is True
    reference = REFERENCES[name](parameter_groups(theirs, 0.3))
    train(ours, optimiser)
    train(theirs, reference)
    assert_same(ours, theirs)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert optimiser.state[one].keys() == {k for k, v in reference.state[other].items() if v is not None}


def test_muon_is_torchs_own_for_hidden_matrices_and_adamw_for_the_rest():
    ours, theirs = (build_model(SHAPE, seed=5) for _ in range(2))
    optim = OptimSpec(name="muon", lr=0.01, weight_decay=0.3)
    optimiser = build_optimiser(ours, optim, CPU)
    hidden = [p for n, p in theirs.named_parameters() if n.startswith("layers.") and p.ndim == 2]
    others = [p for n, p in theirs.named_parameters() if not n.startswith("layers.") and p.ndim == 2]
    vectors = [p for p in theirs.parameters() if p.ndim == 1]
    assert [len(group["params"]) for group in optimiser.param_groups] == [len(hidden), len(others), len(vectors)]
    assert [group["algorithm"] for group in optimiser.param_groups] == ["muon", "adamw", "adamw"]
    references = [
        torch.optim.Muon(hidden, lr=0.02, weight_decay=0.3, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(
            [{"params": others, "weight_decay": 0.3}, {"params": vectors, "weight_decay": 0.0}],
            lr=0.02,
            betas=(0.9, 0.95),
            fused=True,
        ),
    ]
    tokens = torch.arange(18).view(2, 9) % SHAPE.vocabulary
    for _ in range(4):
        set_learning_rate(optimiser, 0.02)
        for model, ones in ((ours, [optimiser]), (theirs, references)):
            model.zero_grad()
            model(tokens[:, :-1], targets=tokens[:, 1:])[0].backward()
            for one in ones:
                one.step()
    assert_same(ours, theirs)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "adafactor", "muon"])
def test_state_saved_and_loaded_goes_on_as_without(name):
    one, other = twins()
    first = build_optimiser(one, optim_of(name), CPU)
    train(one, first, 2)
    other.load_state_dict(one.state_dict())
    second = build_optimiser(other, optim_of(name), CPU)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(one, first, 2)
    train(other, second, 2)
    assert_same(one, other)


def test_several_parts_make_one_optimiser_and_a_shared_parameter_is_in_it_once():
    whole = build_model(SHAPE, seed=5)
    parts = [nn.ModuleDict({"layers": nn.ModuleDict({"0": whole.layers["0"]})}), nn.ModuleDict({"head": whole.head})]
    parts.append(nn.ModuleDict({"embedding": whole.embedding}))
    assert whole.head.weight is whole.embedding.weight
    optimiser = build_optimiser(parts, OptimSpec(name="muon"), CPU)
    counts = {
        group["algorithm"] + str(group["params"][0].ndim): len(group["params"]) for group in optimiser.param_groups
    }
    assert counts == {"muon2": 7, "adamw2": 1, "adamw1": 2}
    alone = build_optimiser(parts[1], OptimSpec(name="muon"), CPU)
    assert [group["algorithm"] for group in alone.param_groups] == ["adamw"]


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_the_fused_update_is_the_plain_one(name):
    fused, plain = twins()
    ours = build_optimiser(fused, optim_of(name), CPU)
    theirs = build_optimiser(plain, optim_of(name), torch.device("meta"))  # no device of ours: not fused
    assert theirs.param_groups[0]["fused"] is False
    train(fused, ours)
    train(plain, theirs)
    assert_same(fused, plain)
