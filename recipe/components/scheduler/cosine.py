"""Cosine decay.

Helps: Nearly always against a constant rate: the end of the run averages out the noise of the
steps.
Not with: Comparisons between runs of different length: it takes its length from the run.
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
    """The factor on every group's own learning rate: 1 at the start, `minimum` at the end."""
    return minimum + (1 - minimum) * (1 + math.cos(math.pi * progress)) / 2
