"""Mean squared error to one-hot targets.

Helps: A robust alternative to cross-entropy for few classes (Hui and Belkin 2020,
https://arxiv.org/abs/2006.07322); with many classes, training is slow.
Not with: Learning rates chosen for cross-entropy, as its gradients are smaller.
Costs: Nothing that can be measured.

Source: torch.nn.functional.mse_loss, which broadcasts class indices to a wrong loss with only a
warning; here, they are converted to one-hot vectors first.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from recipe.components.loss import check_target


def mse_one_hot(output: Tensor, target: Tensor) -> Tensor:
    """Returns the mean over batch and classes of (output - target)**2, shape (), without softmax.

    Raises ValueError for a target that fits neither form of the contract.
    """
    check_target(output, target)
    if not target.is_floating_point():
        target = functional.one_hot(target, output.shape[1])
    return functional.mse_loss(output, target.to(output.dtype))
