"""A fully connected network."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt
from torch import nn


def mlp(
    *,
    channels: PositiveInt,
    size: PositiveInt,
    classes: PositiveInt,
    hidden: list[PositiveInt],
    dropout: Annotated[float, Field(ge=0, lt=1)],
) -> nn.Module:
    """Maps flattened inputs (batch, channels, size, size) to logits (batch, classes)."""
    model = nn.Sequential()
    model.add_module("flatten", nn.Flatten())
    before = channels * size * size
    for index, width in enumerate(hidden, start=1):
        model.add_module(f"linear{index}", nn.Linear(before, width))
        model.add_module(f"relu{index}", nn.ReLU())
        model.add_module(f"dropout{index}", nn.Dropout(dropout))
        before = width
    model.add_module("classifier", nn.Linear(before, classes))
    return model
