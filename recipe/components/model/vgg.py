"""VGG with optional batch normalisation, with the layer names of the tricks' source.

Source: Simonyan and Zisserman 2014, https://arxiv.org/abs/1409.1556, but the last features are
averaged over the image and classified by one linear layer, so the input may have any size that is
large enough for the max poolings.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn


class Vgg(nn.Module):
    """Blocks of 3x3 convolutions, `convolution1_1`, `convolution1_2`, `convolution2_1`, ..., each
    followed by `batchnorm1_1`, ...; every block ends with a 2x2 max pooling."""

    def __init__(
        self,
        channels: int,
        classes: int,
        widths: list[int],
        convolutions: int,
        batchnorm: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.blocks = [
            [f"{block}_{index}" for index in range(1, convolutions + 1)]
            for block in range(1, len(widths) + 1)
        ]
        self.batchnorm = batchnorm
        for width, block in zip(widths, self.blocks, strict=True):
            for name in block:
                convolution = nn.Conv2d(channels, width, 3, padding=1)
                nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
                self.add_module(f"convolution{name}", convolution)
                if batchnorm:
                    self.add_module(f"batchnorm{name}", nn.BatchNorm2d(width))
                channels = width
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = images
        for block in self.blocks:
            for name in block:
                features = self.get_submodule(f"convolution{name}")(features)
                if self.batchnorm:
                    features = self.get_submodule(f"batchnorm{name}")(features)
                features = torch.relu(features)
            features = nn.functional.max_pool2d(features, 2)
        logits: Tensor = self.classifier(self.dropout(features.mean(dim=(2, 3))))
        return logits


def vgg(
    *,
    channels: PositiveInt,
    classes: PositiveInt,
    widths: Annotated[list[PositiveInt], Field(min_length=1)],
    convolutions: PositiveInt,
    batchnorm: bool,
    dropout: Annotated[float, Field(ge=0, lt=1)],
) -> nn.Module:
    """Maps (batch, channels, height, width) to logits (batch, classes).

    Height and width must be at least 2 to the power of the number of blocks.
    """
    return Vgg(channels, classes, widths, convolutions, batchnorm, dropout)
