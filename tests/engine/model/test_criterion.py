"""Head and loss in one: the objective that is trained on, the cross-entropy that is reported, in pieces or at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.model.criterion import Criterion, cross_entropy_sums


def test_label_smoothing_is_trained_on_and_plain_cross_entropy_is_reported() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(6, 7, requires_grad=True), torch.randint(7, (6,))
    plain = functional.cross_entropy(logits, targets, reduction="sum")
    for smoothing in (0.2, 0.0):
        expected = functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
        objective, reported = cross_entropy_sums(logits, targets, smoothing)
        torch.testing.assert_close(objective, expected)
        torch.testing.assert_close(reported, plain)
        found, wanted = (torch.autograd.grad(value, logits)[0] for value in (objective, expected))
        torch.testing.assert_close(found, wanted)


def run(chunks: int, rows: int) -> tuple[Tensor, list[Tensor], int]:
    """Sums, gradients of stream and head, and the logits' rows that existed at a time."""
    torch.manual_seed(1)
    head, x, targets = nn.Linear(5, 11), torch.randn(1, rows, 5, requires_grad=True), torch.randint(11, (1, rows))
    criterion = Criterion()
    criterion.chunks, criterion.label_smoothing = chunks, 0.1
    largest = 0

    def note(module: nn.Module, inputs: tuple[Tensor, ...], result: Tensor) -> None:
        nonlocal largest
        largest = max(largest, len(result))

    head.register_forward_hook(note)
    sums = criterion(head, x, targets)
    sums[0].backward()
    with torch.no_grad():
        torch.testing.assert_close(criterion(head, x, targets), sums)
    grads = [value.grad for value in (x, head.weight, head.bias) if value.grad is not None]
    assert len(grads) == 3
    return sums.detach(), grads, largest


@pytest.mark.parametrize(("chunks", "rows", "largest"), [(1, 12, 12), (4, 12, 3), (5, 12, 3), (7, 3, 1)])
def test_pieces_add_up_to_the_whole(chunks: int, rows: int, largest: int) -> None:
    sums, grads, seen = run(chunks, rows)
    expected, expected_grads, _ = run(1, rows)
    torch.testing.assert_close(sums, expected)
    for one, other in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(one, other)
    assert seen == largest
