"""Random erasing: fill a random rectangle of the image with the mean colour.

Helps: Photographs in which objects may be partly hidden, and small data, against overfitting.
Not with: Images whose class depends on a small detail; freeze caches, as inputs change.
Costs: A pass over the images, one at a time.

Source: Zhong et al. 2020, https://arxiv.org/abs/1708.04896; torchvision.transforms.RandomErasing.
Inputs are already normalised, so its fill value 0 is the mean colour. A rectangle that doesn't fit
into the image is drawn again, at most ten times; then the image isn't changed.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from recipe.components.augment import import_transforms, seed_global_rng
from recipe.errors import SettingError


def random_erasing(
    inputs: Tensor,
    targets: Tensor,
    generator: torch.Generator,
    *,
    probability: Annotated[float, Field(gt=0, le=1)],
    scale: tuple[Annotated[float, Field(gt=0, lt=1)], Annotated[float, Field(gt=0, lt=1)]],
    ratio: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]],
) -> tuple[Tensor, Tensor]:
    """Erases a rectangle of each image with this probability. Targets are not changed.

    Raises ValueError if torchvision can't be imported, and for a range that ends below its start.
    """
    for key, (low, high) in (("scale", scale), ("ratio", ratio)):
        if low > high:
            rule, way_out = "must be a range from low to high", f"use {[high, low]}"
            raise SettingError(f"augment.{key}", rule, [low, high], way_out)
    erase = import_transforms("random_erasing").RandomErasing(
        probability, tuple(scale), tuple(ratio)
    )
    with seed_global_rng(generator):
        return torch.stack([erase(image) for image in inputs]), targets
