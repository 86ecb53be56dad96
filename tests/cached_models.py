"""Models whose frozen beginning is to be computed once: such as can be cut, and such as can't.

Each takes images (n, channels, size, size) and gives logits (n, classes).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class UNet(nn.Module):
    """Two levels down and up again: the cut crosses both skips."""

    def __init__(self, channels: int, classes: int, size: int) -> None:
        super().__init__()
        self.down1 = nn.Sequential(nn.Conv2d(channels, 4, 7, padding=3), nn.ReLU(inplace=True))
        self.down2 = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(inplace=True))
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.up2 = nn.Conv2d(16, 4, 3, padding=1)
        self.up1 = nn.Conv2d(8, 4, 3, padding=1)
        self.head = nn.Linear(4, classes)

    def forward(self, images: Tensor) -> Tensor:
        first = self.down1(images)
        second = self.down2(functional.max_pool2d(first, 2))
        features = functional.gelu(self.middle(functional.max_pool2d(second, 2)))
        features = torch.cat([functional.interpolate(features, scale_factor=2.0), second], 1)
        features = functional.gelu(self.up2(features))
        features = torch.cat([functional.interpolate(features, scale_factor=2.0), first], 1)
        output: Tensor = self.head(self.up1(features).mean(dim=(2, 3)))
        return output


class ViT(nn.Module):
    """A class token, positions, attention by hand whose shapes go by the batch, dropout between."""

    def __init__(self, channels: int, classes: int, size: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, 8, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.positions = nn.Parameter(torch.randn(1, (size // 4) ** 2 + 1, 8))
        self.blocks = nn.ModuleList([Attention(), Attention()])
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, classes)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images)
        count, width, rows, columns = patches.shape
        tokens = patches.reshape(count, width, rows * columns).permute(0, 2, 1)
        tokens = torch.cat([self.token.expand(count, -1, -1), tokens], 1) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
            tokens = functional.dropout(tokens, 0.2, self.training and block is self.blocks[1])
        output: Tensor = self.head(self.norm(tokens)[:, 0])
        return output


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.out = nn.Linear(8, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        count, length, width = tokens.shape
        qkv = self.qkv(self.norm(tokens)).reshape(count, length, 3, 2, width // 2)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1)).softmax(-1)
        mixed: Tensor = (weights @ v).transpose(1, 2).reshape(count, length, width)
        output: Tensor = tokens + self.out(mixed)
        return output


class Plain(nn.Module):
    """Two convolutions and a head, for others to change one thing."""

    def __init__(self, channels: int, classes: int, size: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 4, 7, padding=3)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.end(self.second(self.beginning(images)))

    def beginning(self, images: Tensor) -> Tensor:
        return functional.relu(self.first(images))

    def end(self, features: Tensor) -> Tensor:
        output: Tensor = self.head(features.mean(dim=(2, 3)))
        return output


class Twice(Plain):
    """Its second layer is used in what is frozen and after what is trained."""

    def forward(self, images: Tensor) -> Tensor:
        features = self.second(self.beginning(images))
        return self.end(self.second(self.between(functional.relu(features))))

    def __init__(self, channels: int, classes: int, size: int) -> None:
        super().__init__(channels, classes, size)
        self.between = nn.Conv2d(4, 4, 1)


class Tied(Plain):
    """Frozen layers whose weights are trained under another name as well."""

    def __init__(self, channels: int, classes: int, size: int) -> None:
        super().__init__(channels, classes, size)
        self.third = nn.Conv2d(4, 4, 3, padding=1)
        self.third.weight = self.second.weight

    def forward(self, images: Tensor) -> Tensor:
        return self.end(self.third(self.second(self.beginning(images))))


class Branch(Plain):
    """What is done depends on the numbers."""

    def forward(self, images: Tensor) -> Tensor:
        features = self.second(self.beginning(images))
        return self.end(features if features.mean() > 0 else -features)


class Noisy(Plain):
    """Draws before the first layer."""

    def forward(self, images: Tensor) -> Tensor:
        noise = 0.1 * torch.randn(images.shape) if self.training else 0.0
        return super().forward(images + noise)


class Chance(Plain):
    """Leaves a layer out by chance, which a graph can't say."""

    def forward(self, images: Tensor) -> Tensor:
        features = self.beginning(images)
        if self.training and torch.rand(()) < 0.5:
            return self.end(features)
        return self.end(self.second(features))


class Counts(Plain):
    """Does something else from its fourth pass on."""

    def __init__(self, channels: int, classes: int, size: int) -> None:
        super().__init__(channels, classes, size)
        self.passes = 0

    def forward(self, images: Tensor) -> Tensor:
        self.passes += 1
        return super().forward(images if self.passes < 4 else -images)


class Follows(Plain):
    """Divides by a mean that follows the images."""

    scale: Tensor

    def __init__(self, channels: int, classes: int, size: int) -> None:
        super().__init__(channels, classes, size)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.scale.mul_(0.9).add_(images.abs().mean() * 0.1)
        return super().forward(images / self.scale)


class Mixes(Plain):
    """Takes the mean of the batch away."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images - images.mean(0))


class InPlace(Plain):
    """What is trained is added in place, from 0 on, to what a frozen layer reads once more."""

    def __init__(self, channels: int, classes: int, size: int) -> None:
        super().__init__(channels, classes, size)
        self.gain = nn.Parameter(torch.zeros(4, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        features = self.beginning(images)
        seen = features.flatten(1)
        features += self.gain
        return self.end(self.second(seen.view(features.shape)))


class Largest(Plain):
    """Divides by a number that is taken out of the tensors."""

    def forward(self, images: Tensor) -> Tensor:
        features = self.beginning(images)
        return self.end(self.second(features / features.max().item()))


class Sequence(Plain):
    """Attention over rows, the batch in the second dimension; the frozen layer's dropout is 0."""

    def __init__(self, channels: int, classes: int, size: int) -> None:
        super().__init__(channels, classes, size)
        self.first = nn.Conv2d(channels, 8, (1, size))
        self.second = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0)  # type: ignore[assignment]
        self.third = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1)
        self.head = nn.Linear(8, classes)

    def forward(self, images: Tensor) -> Tensor:
        rows = self.first(images).squeeze(3).permute(2, 0, 1)
        output: Tensor = self.head(self.third(self.second(rows)).mean(0))
        return output


class Windows(Plain):
    """Four windows of an image stand in the batch as four samples when the cut comes."""

    def forward(self, images: Tensor) -> Tensor:
        count, _, size, _ = images.shape
        features = self.beginning(images)
        windows = features.reshape(count, 4, 2, size // 2, 2, size // 2).permute(0, 2, 4, 1, 3, 5)
        windows = self.second(windows.reshape(count * 4, 4, size // 2, size // 2).sigmoid())
        return self.end(windows.reshape(count, 4, 4, size // 2, size // 2).mean(1))


class ChannelsLast(Plain):
    """Its weights and so its features lie with the channels last, and are sliced there."""

    def __init__(self, channels: int, classes: int, size: int) -> None:
        super().__init__(channels, classes, size)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        features = self.beginning(images.contiguous(memory_format=torch.channels_last))
        return self.end(self.second(functional.pad(features[:, :, 1:], (0, 0, 1, 0))))


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "convolution": lambda: nn.Conv2d(4, 4, 5, padding=2),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4),
    "batchnorm": lambda: nn.BatchNorm2d(4),
    "groupnorm": lambda: nn.GroupNorm(2, 4),
    "dropout": lambda: nn.Dropout(0.3),
    "gelu": lambda: nn.Sequential(nn.GELU(), nn.Conv2d(4, 4, 1)),
    "relu": lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, padding=1)),
}
"""Each keeps 4 channels and the size."""


class Drawn(nn.Module):
    """Layers one after another, some with a shortcut around them."""

    def __init__(self, channels: int, classes: int, layers: list[str], skips: list[bool]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(LAYERS[name]() for name in layers)
        self.skips = skips
        self.channels = channels
        self.head = nn.Linear(4, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = images.repeat(1, 4 // self.channels, 1, 1)
        for layer, skip in zip(self.layers, self.skips, strict=True):
            before = features.clone()  # the layer may work in place
            features = layer(features)
            if skip:
                features += before
        output: Tensor = self.head(features.mean(dim=(2, 3)))
        return output


KINDS: dict[str, type[nn.Module]] = {
    "unet": UNet, "vit": ViT, "plain": Plain, "twice": Twice, "tied": Tied, "branch": Branch,
    "noisy": Noisy, "chance": Chance, "counts": Counts, "follows": Follows, "mixes": Mixes,
    "in_place": InPlace, "largest": Largest, "sequence": Sequence, "windows": Windows,
    "channels_last": ChannelsLast,
}  # fmt: skip


def model(*, kind: str, channels: int, classes: int, size: int, **others: Any) -> nn.Module:
    if kind == "drawn":
        return Drawn(channels, classes, others["layers"], others["skips"])
    return KINDS[kind](channels, classes, size)
