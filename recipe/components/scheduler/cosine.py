"""Cosine decay.

Helps: Nearly always compared with a constant rate: small steps at the end of the run average out
the noise of the gradients.
Not with: Comparisons between runs of different lengths, as it always has the length of the run.
Costs: Nothing that can be measured.

Source: Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983, without restarts. torch's
CosineAnnealingLR ends all groups at one absolute `eta_min`, which destroys the ratio between
them; here the end is a fraction of each group's own learning rate.
"""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from recipe.components.contract import lr_factor


@lr_factor
def cosine(progress: float, *, minimum: Annotated[float, Field(ge=0, lt=1)]) -> float:
    """Returns the factor of each group's learning rate: 1 at progress 0, `minimum` at 1."""
    return minimum + (1 - minimum) * (1 + math.cos(math.pi * progress)) / 2
