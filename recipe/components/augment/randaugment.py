"""RandAugment.

Helps: Photographs and long runs; one setting, the magnitude, in place of a dozen augmentations.
Not with: Digits and text, which rotations and shears turn into others; short runs, which it slows
down; freeze caches, as inputs change.
Costs: Several operations an image, one image at a time: often more than the step of a small model.

Source: Cubuk et al. 2020, https://arxiv.org/abs/1909.13719; torchvision.transforms.RandAugment,
with its fourteen operations and 31 magnitudes. It works on pixels of 8 bits: the inputs are taken
back to those, and normalised again afterwards.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from recipe.components.augment import import_transforms, seed_global_rng

PIXEL_TOLERANCE = 0.01
"""How far outside of black and white a pixel may be, such as by rounding."""


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
    """Every image goes through `operations` of them, by draws of its own. Targets stay.

    Raises ValueError if torchvision can't be imported, for images of other than 1 or 3 channels,
    and where `mean` and `std` don't lead back to pixels between black and white.
    """
    augment = import_transforms("randaugment").RandAugment(operations, magnitude)
    channels = inputs.shape[1]
    if channels not in (1, 3) or {len(mean), len(std)} != {channels}:
        raise ValueError(
            f"augment=randaugment is made for images of 1 or 3 channels, with a mean and std of "
            f"each, got {channels}, {len(mean)} and {len(std)}; use augment=flip_crop"
        )
    centre, spread = (inputs.new_tensor(each)[:, None, None] for each in (mean, std))
    pixels = inputs * spread + centre
    if not -PIXEL_TOLERANCE <= pixels.min() <= pixels.max() <= 1 + PIXEL_TOLERANCE:
        raise ValueError(
            f"augment=randaugment is made for images, with black at 0 and white at 1, but pixels "
            f"are between {pixels.min():.3g} and {pixels.max():.3g}; use augment=flip_crop"
        )
    whole = (pixels * 255).round().clamp(0, 255).to(torch.uint8)
    with seed_global_rng(generator):
        changed = torch.stack([augment(image) for image in whole])
    return ((changed.to(inputs.dtype) / 255 - centre) / spread), targets
