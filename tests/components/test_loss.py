"""Losses: their numbers by hand, and that no target is broadcast or taken for another form."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from recipe.components.loss.cross_entropy import cross_entropy
from recipe.components.loss.label_smoothing import label_smoothing
from recipe.components.loss.mse_one_hot import mse_one_hot

Loss = Callable[[Tensor, Tensor], Tensor]

LOSSES: list[Loss] = [cross_entropy, partial(label_smoothing, smoothing=0.1), mse_one_hot]
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=["cross_entropy", "smoothing", "mse"])

# Softmax of the first row: 3/4 and 1/4; of the second: 1/2 and 1/2.
LOGITS = torch.tensor([[math.log(3.0), 0.0], [5.0, 5.0]])


def test_cross_entropy_is_mean_negative_log_probability() -> None:
    expected = (-math.log(1 / 4) - math.log(1 / 2)) / 2
    assert cross_entropy(LOGITS, torch.tensor([1, 0])).item() == pytest.approx(expected)


def test_cross_entropy_weights_classes_by_target_probabilities() -> None:
    target = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    expected = (-0.5 * math.log(3 / 4) - 0.5 * math.log(1 / 4) - math.log(1 / 2)) / 2
    assert cross_entropy(LOGITS, target).item() == pytest.approx(expected)


def test_label_smoothing_is_uniform_over_all_classes() -> None:
    # 0.2 over two classes: 0.9 for the right one, 0.1 for the other.
    expected = -0.9 * math.log(1 / 4) - 0.1 * math.log(3 / 4)
    result = label_smoothing(LOGITS[:1], torch.tensor([1]), smoothing=0.2)
    assert result.item() == pytest.approx(expected)


def test_label_smoothing_of_one_hot_rows_equals_smoothing_of_indices() -> None:
    indices = label_smoothing(LOGITS, torch.tensor([1, 0]), smoothing=0.2)
    rows = label_smoothing(LOGITS, torch.tensor([[0.0, 1.0], [1.0, 0.0]]), smoothing=0.2)
    torch.testing.assert_close(indices, rows)


def test_mse_converts_indices_to_one_hot_rows() -> None:
    output = torch.tensor([[0.5, 0.0, 1.0], [0.0, 1.0, 0.0]])
    # (0.5**2 + 0 + 0) + (0 + 0 + 1) over the six entries; row two is off by one in two places.
    expected = (0.25 + 1.0 + 1.0) / 6
    assert mse_one_hot(output, torch.tensor([2, 2])).item() == pytest.approx(expected)


def test_mse_uses_probabilities_unchanged() -> None:
    output = torch.tensor([[0.5, 0.0]])
    assert mse_one_hot(output, torch.tensor([[0.5, 0.5]])).item() == pytest.approx(0.125)


@each_loss
def test_losses_have_gradients_for_bfloat16_outputs(loss: Loss) -> None:
    output = LOGITS.bfloat16().requires_grad_()
    (grad,) = torch.autograd.grad(loss(output, torch.tensor([1, 0])), [output])
    assert grad.dtype == torch.bfloat16 and grad.abs().sum() > 0


@each_loss
@pytest.mark.parametrize(
    "target",
    [
        torch.zeros(2, 1, dtype=torch.int64),
        torch.zeros(1, dtype=torch.int64),
        torch.zeros(2, 2, dtype=torch.int64),
        torch.zeros(2),
        torch.zeros(1, 2),
        torch.zeros(2, 1),
    ],
    ids=lambda target: f"{tuple(target.shape)} {target.dtype}",
)
def test_target_with_broadcastable_shape_raises(loss: Loss, target: Tensor) -> None:
    with pytest.raises(ValueError, match=r"^loss: .*output \(2, 2\), target \([^\n]*$"):
        loss(LOGITS, target)


@each_loss
@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.uint8, torch.complex64])
def test_target_with_unsupported_dtype_raises(loss: Loss, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=rf"^loss: .* got {dtype}; [^\n]*$"):
        loss(LOGITS, torch.zeros(2, dtype=dtype))


@each_loss
@pytest.mark.parametrize("wrong", [-1, 2, -100])
def test_target_index_outside_classes_raises(loss: Loss, wrong: int) -> None:
    with pytest.raises(ValueError, match=rf"^loss: .* 0 to 1, .* got {wrong}; [^\n]*$"):
        loss(LOGITS, torch.tensor([0, wrong]))


@each_loss
def test_output_without_one_row_per_sample_raises(loss: Loss) -> None:
    with pytest.raises(ValueError, match=r"^loss: the model's output must have shape"):
        loss(torch.zeros(2, 2, 4, 4), torch.tensor([0, 1]))
