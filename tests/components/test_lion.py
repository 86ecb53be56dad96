"""Lion, of the pytorch-optimizer library, by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from recipe.config import instantiate
from recipe.config.spec import RunSpec


def test_lion_step_is_sign_of_mean_times_learning_rate(small: Callable[..., RunSpec]) -> None:
    settings = ("optimizer.lr=0.1", "optimizer.betas=[0.5,0.9]", "optimizer.weight_decay=0.2")
    weights = nn.Parameter(torch.tensor([1.0, 1.0]))
    optimizer = instantiate.bind_component(small("optimizer=lion", *settings), "optimizer")(
        [weights]
    )
    weights.grad = torch.tensor([3.0, -0.01])
    optimizer.step()
    # decay first: 1 - 0.1 * 0.2 = 0.98; then 0.1 against the sign, however large the gradient
    assert weights.tolist() == pytest.approx([0.88, 1.08])
    weights.grad = torch.tensor([-0.2, 0.0])
    optimizer.step()
    # the mean is 0.1 * [3, -0.01]; half of it and half of the gradient: [0.05, -0.0005]
    assert weights.tolist() == pytest.approx([0.88 * 0.98 - 0.1, 1.08 * 0.98 + 0.1])
