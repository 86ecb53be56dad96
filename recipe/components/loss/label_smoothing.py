"""Cross-entropy with label smoothing.

Helps: Many classes or noisy labels, and where probabilities are to be less sure of themselves;
on small clean data it seldom moves the accuracy.
Not with: Loss values of runs without it, which are on another scale; mixup and cutmix smooth
the targets already.
Costs: Nothing that can be measured.

Source: Szegedy et al. 2016, https://arxiv.org/abs/1512.00567; torch.nn.functional.cross_entropy.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from recipe.components.loss import check_target


def label_smoothing(
    output: Tensor, target: Tensor, *, smoothing: Annotated[float, Field(gt=0, lt=1)]
) -> Tensor:
    """Cross-entropy to (1 - smoothing) * target + smoothing / classes, in nats, shape ().

    The mean over the batch; the softmax is taken here. Evaluation with it is smoothed too, so
    its loss can't be compared with that of cross_entropy. Raises ValueError for a target
    that fits neither form of the contract.
    """
    check_target(output, target)
    return functional.cross_entropy(output, target, label_smoothing=smoothing)
