"""All parameters are trained."""

from __future__ import annotations

from torch import nn


def none(model: nn.Module) -> None:
    model.requires_grad_(True)
