from __future__ import annotations

import pytest
import torch
from torch import nn

from engine.contract.spec import OptimSpec
from engine.training.loss import token_loss
from engine.training.optimiser import build_optimiser, set_learning_rate

CPU = torch.device("cpu")


def network() -> nn.Module:
    return nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 5))


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_each_name_is_its_optimiser_fused_and_decays_matrices_alone(name, kind):
    model = network()
    optimiser = build_optimiser(model, OptimSpec(name=name, weight_decay=0.3, momentum=0.8, nesterov=True), CPU)
    assert type(optimiser) is kind
    decayed, plain = optimiser.param_groups
    assert decayed["weight_decay"] == 0.3
    assert plain["weight_decay"] == 0.0
    assert {parameter.ndim for parameter in decayed["params"]} == {2}
    assert {parameter.ndim for parameter in plain["params"]} == {1}
    assert sum(len(group["params"]) for group in optimiser.param_groups) == len(list(model.parameters()))
    assert decayed["fused"] is True
    if name == "sgd":
        assert (decayed["momentum"], decayed["nesterov"]) == (0.8, True)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_the_fused_update_is_the_plain_one(name):
    optim = OptimSpec(name=name, weight_decay=0.1, lr=0.01)
    torch.manual_seed(3)
    fused, plain = network(), network()
    plain.load_state_dict(fused.state_dict())
    ours = build_optimiser(fused, optim, CPU)
    theirs = build_optimiser(plain, optim, torch.device("meta"))  # no device of ours: not fused
    assert theirs.param_groups[0]["fused"] is False
    tokens = torch.randint(5, (6, 3))
    for _ in range(5):
        for model, optimiser in ((fused, ours), (plain, theirs)):
            set_learning_rate(optimiser, 0.02)
            optimiser.zero_grad()
            model(tokens).square().mean().backward()
            optimiser.step()
    for one, other in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_label_smoothing_is_trained_on_and_plain_cross_entropy_is_reported():
    torch.manual_seed(0)
    logits, targets = torch.randn(2, 3, 7, requires_grad=True), torch.randint(7, (2, 3))
    plain = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    smoothed = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=0.2)

    objective, loss = token_loss(logits, targets, 0.2)
    torch.testing.assert_close(objective, smoothed)
    torch.testing.assert_close(loss, plain.detach())
    assert objective.requires_grad
    assert not loss.requires_grad

    objective, loss = token_loss(logits, targets)
    torch.testing.assert_close(objective, plain)
    torch.testing.assert_close(loss, plain.detach())
