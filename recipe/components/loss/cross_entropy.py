"""Cross-entropy. Source: torch.nn.functional.cross_entropy."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from recipe.components.loss import check_target


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Returns the mean over the batch of the cross-entropy of the logits, in nats, shape ().

    Raises ValueError for a target that fits neither form of the contract.
    """
    check_target(output, target)
    return functional.cross_entropy(output, target)
