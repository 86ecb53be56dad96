"""RandAugment: random operations of one strength on each image.

Helps: Photographs and long runs; one setting, the magnitude, replaces a dozen augmentations.
Not with: Digits and text, whose class may change when they are rotated or sheared; short runs,
which converge more slowly; freeze caches, as inputs change.
Costs: Several operations per image, one image at a time: often more than a step of a small model.

Source: Cubuk et al. 2020, https://arxiv.org/abs/1909.13719; torchvision.transforms.RandAugment,
with its 14 operations and 31 magnitudes. It needs pixels of 8 bits, so inputs are converted to
bytes, and normalised again afterwards.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from recipe.components.augment import import_transforms, seed_global_rng

PIXEL_TOLERANCE = 0.01  # beyond black and white, for rounding errors


def randaugment(
    inputs: Tensor,
    targets: Tensor,
    generator: torch.Generator,
    *,
    operations: PositiveInt,
    magnitude: Annotated[int, Field(ge=0, le=30)],
    mean: list[float],
    std: list[PositiveFloat],
) -> tuple[Tensor, Tensor]:
    """Applies `operations` random operations to each image. Targets are not changed.

    Raises ValueError if torchvision can't be imported, if images don't have 1 or 3 channels, and if
    undoing the normalisation by `mean` and `std` gives pixels beyond black and white.
    """
    augment = import_transforms("randaugment").RandAugment(operations, magnitude)
    channels = inputs.shape[1]
    if channels not in (1, 3) or {len(mean), len(std)} != {channels}:
        raise ValueError(
            f"augment=randaugment needs images of 1 or 3 channels, and a mean and a std for each "
            f"channel, got {channels}, {len(mean)} and {len(std)}; use augment=flip_crop"
        )
    centre, spread = (inputs.new_tensor(each)[:, None, None] for each in (mean, std))
    pixels = inputs * spread + centre
    if not -PIXEL_TOLERANCE <= pixels.min() <= pixels.max() <= 1 + PIXEL_TOLERANCE:
        raise ValueError(
            f"augment=randaugment needs images in which black is 0 and white is 1, but pixels are "
            f"between {pixels.min():.3g} and {pixels.max():.3g}; use augment=flip_crop"
        )
    as_bytes = (pixels * 255).round().clamp(0, 255).to(torch.uint8)
    with seed_global_rng(generator):
        changed = torch.stack([augment(image) for image in as_bytes])
    return ((changed.to(inputs.dtype) / 255 - centre) / spread), targets
