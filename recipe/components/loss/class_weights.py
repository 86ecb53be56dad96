"""Cross-entropy with a weight for each class.

Helps: Data whose classes have very different numbers of samples but are equally important.
Not with: sampler=balanced, which also gives rare classes more weight (refused); comparisons of its
loss with that of other runs, which has another scale.
Costs: Nothing that can be measured.

Source: King and Zeng 2001, https://gking.harvard.edu/files/0s.pdf (weighting), with the
weights of scikit-learn's class_weight="balanced"; torch.nn.functional.cross_entropy. torch divides
by the sum of a batch's weights, so that the weight of a sample depends on the others of its batch;
this implementation divides by the number of samples.
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
    """Returns the mean over the batch of weight * cross-entropy of the logits, in nats, shape ().

    With `balanced`, the weight of a class with m of n samples in K classes is n / (K m), so that
    the mean weight of the training split is 1. Evaluation is weighted too. Raises ValueError for a
    target that fits neither form of the contract.
    """
    check_target(output, target)
    if weights == "balanced":
        samples = torch.tensor(counts, dtype=output.dtype, device=output.device)
        weight = samples.sum() / (len(counts) * samples.clamp(min=1))
    else:
        weight = torch.tensor(weights, dtype=output.dtype, device=output.device)
    return functional.cross_entropy(output, target, weight, reduction="none").mean()


@no_effect(class_weights)
def explain_no_effect(
    *, weights: Literal["balanced"] | list[float], counts: list[int]
) -> str | None:
    """Returns the reason if all weights are 1."""
    alike = len(set(counts)) == 1 if weights == "balanced" else set(weights) == {1.0}
    return "every class has weight 1" if alike else None


@check(class_weights)
def check_class_weights(planned: PlannedRun, *, weights: Any, **settings: Any) -> Iterator[str]:
    """There must be one weight per class."""
    classes = len(planned.data.classes)
    if weights != "balanced" and len(weights) != classes:
        yield (
            f"loss.weights has {len(weights)} values for {classes} classes "
            f"({', '.join(planned.data.classes[:10])}); give one each, or balanced"
        )
