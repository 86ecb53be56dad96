"""Mixup: train on weighted means of two images and of their targets.

Helps: Many classes and long runs, against overfitting and for calibrated probabilities.
Not with: Losses that take indices (refused); label smoothing, which has a similar effect; freeze
caches, as inputs change.
Costs: A copy of the batch in each step; more epochs to the same training loss.

Source: Zhang et al. 2018, https://arxiv.org/abs/1710.09412. As in the authors' code, all pairs
of a batch are mixed in the same ratio.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from recipe.components.augment import mix_targets, sample_mix_ratio, sample_permutation


def mixup(
    inputs: Tensor,
    targets: Tensor,
    generator: torch.Generator,
    *,
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)],
    classes: PositiveInt,
) -> tuple[Tensor, Tensor]:
    """Returns ratio * image + (1 - ratio) * another image of the batch; the ratio is drawn from
    Beta(alpha, alpha).

    Targets become probabilities (batch, classes) in the same ratio. Raises ValueError for targets
    that are not class indices.
    """
    ratio = sample_mix_ratio(alpha, generator)
    partners = sample_permutation(targets, generator)
    mixed = torch.lerp(inputs[partners], inputs, ratio)
    return mixed, mix_targets(targets, partners, ratio, classes)
