"""Models of other libraries, without weights: drawing these takes seconds, and says nothing."""

from __future__ import annotations

import torch
from torch import nn

from recipe.components.model.timm import timm
from recipe.components.model.torchvision import torchvision

FAMILIES = {
    "VGG": ("vgg11", "vgg11"),
    "ResNet": ("resnet18", "resnet18"),
    "MobileNet": ("mobilenet_v3_small", "mobilenetv3_small_050"),
    "ViT": ("vit_b_16", "vit_tiny_patch16_224"),
    "ConvNeXt": ("convnext_tiny", "convnext_atto"),
    "EfficientNet": ("efficientnet_b0", "efficientnet_b0"),
}
"""The smallest of each, as torchvision and as timm call it."""

MODELS = [
    (library, names[place])
    for names in FAMILIES.values()
    for place, library in enumerate(("torchvision", "timm"))
]


def foreign(library: str, name: str) -> nn.Module:
    """Of 7 classes."""
    with torch.device("meta"):
        if library == "timm":
            return timm(name=name, channels=3, classes=7, drop_path=None)
        return torchvision(name=name, classes=7, drop_path=None)
