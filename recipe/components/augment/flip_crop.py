"""Random horizontal flips and random crops of the padded image, that is, shifts.

Helps: Photographs, nearly always.
Not with: Images in which left and right matter, such as digits and text: set flip to 0.
Costs: A copy of the batch in each step; the outputs of frozen layers can't be cached.

Source: He et al. 2016, https://arxiv.org/abs/1512.03385, section 4.2, who pad with zeros. This
implementation reflects the border, as https://github.com/KellerJordan/cifar10-airbench does: inputs
are already normalised, so padding with zeros would add a frame of the mean colour.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor
from torch.nn import functional

from recipe.errors import SettingError


def flip_crop(
    inputs: Tensor,
    targets: Tensor,
    generator: torch.Generator,
    *,
    padding: NonNegativeInt,
    flip: Annotated[float, Field(ge=0, le=1)],
) -> tuple[Tensor, Tensor]:
    """Shifts each image by -padding ... padding pixels in each dimension, then mirrors it with
    probability `flip`, with independent draws per image. Targets are not changed.

    Raises ValueError if nothing would be done or the image is too small to be reflected.
    """
    batch, _, height, width = inputs.shape
    if padding == 0 and flip == 0:
        raise ValueError("augment.padding and augment.flip are both 0; use augment=none")
    if padding >= min(height, width):
        rule = f"must be below the shorter side of the {height} x {width} images"
        way_out = f"use at most {min(height, width) - 1}"
        raise SettingError("augment.padding", rule, padding, way_out)
    top, left = torch.randint(2 * padding + 1, (2, batch), generator=generator)
    mirrored = torch.rand(batch, generator=generator) < flip
    top, left, mirrored = (
        draw.to(inputs.device, non_blocking=True) for draw in (top, left, mirrored)
    )
    padded = functional.pad(inputs, [padding] * 4, mode="reflect")
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # every possible crop, as a view
    crops = windows[torch.arange(batch, device=inputs.device), :, top, left]
    return torch.where(mirrored[:, None, None, None], crops.flip(-1), crops), targets
