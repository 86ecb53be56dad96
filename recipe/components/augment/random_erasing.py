"""Random erasing.

Helps: Photographs in which the object may be half hidden, and small data, against overfitting.
Not with: Images whose class hangs on a small detail; freeze caches, as inputs change.
Costs: A pass over the images, one at a time.

Source: Zhong et al. 2020, https://arxiv.org/abs/1708.04896; torchvision.transforms.RandomErasing.
Inputs are normalised already, so its value 0 is the mean colour. A rectangle that doesn't fit into
the image is drawn anew, ten times at most; then the image stays as it is.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from recipe.components.augment import import_transforms, seed_global_rng


def random_erasing(
    inputs: Tensor,
    targets: Tensor,
    generator: torch.Generator,
    *,
    probability: Annotated[float, Field(gt=0, le=1)],
    scale: tuple[Annotated[float, Field(gt=0, lt=1)], Annotated[float, Field(gt=0, lt=1)]],
    ratio: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]],
) -> tuple[Tensor, Tensor]:
    """Every image loses a rectangle with this probability, by draws of its own. Targets stay.

    Raises ValueError if torchvision can't be imported, and for a range that ends below its start.
    """
    for key, (low, high) in (("scale", scale), ("ratio", ratio)):
        if low > high:
            raise ValueError(f"augment.{key} must go from low to high, got {[low, high]}; turn it")
    erase = import_transforms("random_erasing").RandomErasing(
        probability, tuple(scale), tuple(ratio)
    )
    with seed_global_rng(generator):
        return torch.stack([erase(image) for image in inputs]), targets
