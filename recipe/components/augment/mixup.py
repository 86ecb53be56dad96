"""Mixup: train on blends of two images and their targets.

Helps: Many classes and long runs, against overfitting and for calibrated probabilities.
Not with: Losses that take indices (refused); label smoothing, which does the same work; freeze
caches.
Costs: A copy of the batch in a step; more epochs to the same training loss.

Source: Zhang et al. 2018, https://arxiv.org/abs/1710.09412. As in the authors' code, all pairs
of a batch are blended in the same proportion.
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
    """share * image + (1 - share) * another image of the batch; share from Beta(alpha, alpha).

    Targets become probabilities (batch, classes) in the same proportion. Raises ValueError
    for targets that are not class indices.
    """
    share = sample_mix_ratio(alpha, generator)
    partners = sample_permutation(targets, generator)
    mixed = torch.lerp(inputs[partners], inputs, share)
    return mixed, mix_targets(targets, partners, share, classes)
