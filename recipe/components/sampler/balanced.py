"""Class-balanced sampling: an epoch draws from rare classes more often than they occur.

Helps: Data whose classes have very different numbers of samples and all matter alike; validation
isn't changed, so the overall val/accuracy may fall while that of rare classes rises.
Not with: loss=class_weights, which would count rare classes twice (refused).
Costs: Nothing that can be measured.

Source: Shen et al. 2016, https://arxiv.org/abs/1512.05830 (class-aware sampling); the power is that
of Mahajan et al. 2018, https://arxiv.org/abs/1805.00932, section 2.2. torch's WeightedRandomSampler
draws each sample independently, so that some occur often and others never; here, the number of each
class is fixed, and no sample of a class is repeated before all others of that class are used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from recipe.components.contract import PlannedRun, audit, check, reweights_classes

UnitPower = Annotated[float, Field(gt=0, le=1)]


def balanced(targets: Tensor, generator: torch.Generator, *, power: UnitPower) -> Tensor:
    """Returns n indices, shape (n,), in random order, for n samples.

    The number of indices of a class of m samples is in proportion to m ** (1 - power), up to
    rounding. Within a class, all samples are used in random order before any is used again.
    """
    drawn = []
    for label, count in enumerate(samples_per_class(targets, power).tolist()):
        own = (targets == label).nonzero().flatten()
        while count > 0:
            drawn.append(own[torch.randperm(len(own), generator=generator)[:count]])
            count -= len(own)
    indices = torch.cat(drawn)
    return indices[torch.randperm(len(indices), generator=generator)]


def samples_per_class(targets: Tensor, power: float) -> Tensor:
    """Returns how often each class is drawn in an epoch, shape (classes,), int64; the sum is the
    number of samples. Counts are rounded by the largest remainder method."""
    counts = targets.bincount().double()
    weights = torch.where(counts > 0, counts ** (1 - power), 0.0)
    exact = len(targets) * weights / weights.sum()
    rounded = exact.floor().long()
    left = len(targets) - int(rounded.sum())
    rounded[(exact - rounded).argsort(descending=True, stable=True)[:left]] += 1
    return rounded


@check(balanced)
def check_balanced(planned: PlannedRun, **settings: Any) -> Iterator[str]:
    """Refuses two components that both give rare classes more weight."""
    if planned.marks(reweights_classes, "loss"):
        yield (
            f"{planned.choice('sampler')} draws rare classes more often, and "
            f"{planned.choice('loss')} gives them more weight as well; use only one of them"
        )


@audit(balanced)
def audit_balanced(targets: Tensor, indices: Tensor, *, power: float) -> Iterator[str]:
    wanted = samples_per_class(targets, power)
    found = targets[indices].bincount(minlength=len(wanted))
    for label in (found != wanted).nonzero().flatten().tolist():
        yield f"class {label} is drawn {found[label]} times an epoch, not {wanted[label]}"
