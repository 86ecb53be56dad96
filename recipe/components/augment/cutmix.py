"""CutMix: paste a rectangle of another image, and mix the targets by area.

Helps: Many classes, larger images and long runs, against overfitting.
Not with: Losses that take indices (refused); short runs, which converge more slowly; freeze
caches, as inputs change.
Costs: A copy of the batch in each step; more epochs to the same training loss.

Source: Yun et al. 2019, https://arxiv.org/abs/1905.04899. As in the authors' code, all pairs of
a batch get the same rectangle; the border may truncate it, and the targets are mixed by the number
of pixels actually pasted.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from recipe.components.augment import mix_targets, sample_mix_ratio, sample_permutation


def cutmix(
    inputs: Tensor,
    targets: Tensor,
    generator: torch.Generator,
    *,
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)],
    classes: PositiveInt,
) -> tuple[Tensor, Tensor]:
    """Pastes one rectangle of another image of the batch; the share of the area that is kept is
    drawn from Beta(alpha, alpha).

    Targets become probabilities (batch, classes), proportional to the pixels of each image. Raises
    ValueError for targets that are not class indices.
    """
    height, width = inputs.shape[-2:]
    side = math.sqrt(1 - sample_mix_ratio(alpha, generator))
    partners = sample_permutation(targets, generator)
    rows = _sample_span(height, side, generator)
    columns = _sample_span(width, side, generator)

    mixed = inputs.clone()
    mixed[:, :, rows, columns] = inputs[:, :, rows, columns][partners]
    pasted = (rows.stop - rows.start) * (columns.stop - columns.start)
    share = 1 - pasted / (height * width)
    return mixed, mix_targets(targets, partners, share, classes)


def _sample_span(length: int, part: float, generator: torch.Generator) -> slice:
    """Returns a span of `part * length` pixels around a random centre, clamped to the image."""
    centre = int(torch.randint(length, (), generator=generator))
    half = int(length * part) // 2
    return slice(max(centre - half, 0), min(centre + half, length))
