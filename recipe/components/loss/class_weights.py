"""Cross-entropy with a weight for each class.

Helps: Data whose classes have very different numbers of samples and all matter alike.
Not with: sampler=balanced, which would count rare classes twice (refused); loss values of runs
without it, which are on another scale.
Costs: Nothing that can be measured.

Source: King and Zeng 2001, https://gking.harvard.edu/files/0s.pdf (weighting), with the
weights of scikit-learn's class_weight="balanced"; torch.nn.functional.cross_entropy. torch divides
by the sum of a batch's weights, so that a sample counts more beside frequent classes than beside
rare ones; here by the number of samples, as any mean over a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from pydantic import NonNegativeInt, PositiveFloat
from torch import Tensor
from torch.nn import functional

from recipe.components.contract import PlannedRun, check, no_effect, reweights_classes
from recipe.components.loss import check_target


@reweights_classes
def class_weights(
    output: Tensor,
    target: Tensor,
    *,
    weights: Literal["balanced"] | list[PositiveFloat],
    counts: list[NonNegativeInt],
) -> Tensor:
    """The mean over the batch of weight * cross-entropy, in nats, shape (); the softmax is taken
    here.

    With `balanced` a class with m of n samples in K classes weighs n / (K m), so that over the
    training part the mean weight is 1. A target of probabilities weighs each class's share.
    Evaluation is weighted too, so its loss can't be compared with that of cross_entropy. Raises
    ValueError for a target that fits neither form of the contract.
    """
    check_target(output, target)
    if weights == "balanced":
        there = torch.tensor(counts, dtype=output.dtype, device=output.device)
        weight = there.sum() / (len(counts) * there.clamp(min=1))
    else:
        weight = torch.tensor(weights, dtype=output.dtype, device=output.device)
    return functional.cross_entropy(output, target, weight, reduction="none").mean()


@no_effect(class_weights)
def explain_no_effect(
    *, weights: Literal["balanced"] | list[float], counts: list[int]
) -> str | None:
    """Why it is nothing but cross-entropy, if it is."""
    alike = len(set(counts)) == 1 if weights == "balanced" else set(weights) == {1.0}
    return "every class weighs 1" if alike else None


@check(class_weights)
def check_class_weights(planned: PlannedRun, *, weights: Any, **settings: Any) -> Iterator[str]:
    """A weight for every class."""
    classes = len(planned.data.classes)
    if weights != "balanced" and len(weights) != classes:
        yield (
            f"loss.weights has {len(weights)} values for {classes} classes "
            f"({', '.join(planned.data.classes[:10])}); give one each, or balanced"
        )
