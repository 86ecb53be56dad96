"""A small residual network for small images.

Source: He et al. 2015, https://arxiv.org/abs/1512.03385, section 4.2 (the CIFAR networks), but a
shortcut that changes the shape is a 1x1 convolution (their option B).

Stochastic depth: Huang et al. 2016, https://arxiv.org/abs/1603.09382; drawn independently for each
image of a batch, and the branches that are kept are scaled up in training, as in torchvision and
timm.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut. In training, the convolutions are skipped for each
    image with probability `drop`."""

    def __init__(self, channels: int, width: int, stride: int, drop: float) -> None:
        super().__init__()
        self.stochastic_depth = nn.Dropout(drop)
        self.convolution1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.batchnorm1 = nn.BatchNorm2d(width)
        self.convolution2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.batchnorm2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            convolution = nn.Conv2d(channels, width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(width))

    def forward(self, features: Tensor) -> Tensor:
        inner = torch.relu(self.batchnorm1(self.convolution1(features)))
        inner = self.batchnorm2(self.convolution2(inner))
        if self.stochastic_depth.p:
            inner = inner * self.stochastic_depth(inner.new_ones(inner.shape[0], 1, 1, 1))
        return torch.relu(inner + self.shortcut(features))


def resnet(
    *,
    channels: PositiveInt,
    classes: PositiveInt,
    widths: Annotated[list[PositiveInt], Field(min_length=1)],
    blocks: PositiveInt,
    drop_path: Annotated[float, Field(ge=0, lt=1)],
) -> nn.Module:
    """Maps (batch, channels, height, width) to logits (batch, classes).

    The convolutions of block l of L are skipped with probability `drop_path` * l / L.
    """
    stem = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
    model = nn.Sequential()
    model.add_module("convolution", stem)
    model.add_module("batchnorm", nn.BatchNorm2d(widths[0]))
    model.add_module("relu", nn.ReLU())
    before, total = widths[0], len(widths) * blocks
    for stage, width in enumerate(widths, start=1):
        for index in range(1, blocks + 1):
            stride = 2 if stage > 1 and index == 1 else 1
            drop = drop_path * ((stage - 1) * blocks + index) / total
            model.add_module(f"stage{stage}_{index}", ResidualBlock(before, width, stride, drop))
            before = width
    model.add_module("pool", nn.AdaptiveAvgPool2d(1))
    model.add_module("flatten", nn.Flatten())
    model.add_module("classifier", nn.Linear(before, classes))
    return model
