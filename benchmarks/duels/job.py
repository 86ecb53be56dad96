"""A job, the same work for all: model, initial weights, batches in their order, optimizer.

Written once by `written.py`; what is measured reads it with torch alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, TensorDataset


class Network(nn.Module):
    """recipe's default VGG as one would write it by hand: 7 layers a block."""

    def __init__(self, channels: int, classes: int, widths: list[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in widths:
            for _ in range(2):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width)]
                layers += [nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images).mean(dim=(2, 3)))
        return logits


@dataclass
class Job:
    """Images (n, channels, height, width), classes (n,), and what is done with them."""

    train: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]
    order: Tensor
    """Of each epoch the indices of the training images, shape (epochs, n)."""
    weights: list[Tensor]
    """The network starts from, in the order of its state_dict."""
    widths: list[int]
    classes: int
    batch_size: int
    eval_batch_size: int
    sgd: dict[str, Any]
    """Settings of torch.optim.SGD."""

    @classmethod
    def read(cls, path: Path | str) -> Job:
        return cls(**torch.load(path))

    @property
    def epochs(self) -> int:
        return len(self.order)

    @property
    def steps(self) -> int:
        return self.epochs * -(-self.order.shape[1] // self.batch_size)

    def network(self) -> Network:
        made = Network(self.train[0].shape[1], self.classes, self.widths)
        made.load_state_dict(dict(zip(made.state_dict(), self.weights, strict=True)))
        return made

    def optimizer(self, network: nn.Module) -> torch.optim.SGD:
        return torch.optim.SGD(network.parameters(), **self.sgd)

    def loaders(self) -> tuple[DataLoader[Any], DataLoader[Any]]:
        """Training batches, in the job's order epoch by epoch, and those to evaluate on."""
        train, val = TensorDataset(*self.train), TensorDataset(*self.val)
        return (
            DataLoader(train, self.batch_size, sampler=Order(self.order)),
            DataLoader(val, self.eval_batch_size),
        )


class Order(Sampler[int]):
    """Each epoch's own order, one after the other."""

    def __init__(self, order: Tensor) -> None:
        self.order, self.epoch = order, 0

    def __len__(self) -> int:
        return self.order.shape[1]

    def __iter__(self) -> Iterator[int]:
        epoch = self.order[self.epoch]
        self.epoch += 1
        return iter(epoch.tolist())


def accuracy(output: Tensor, targets: Tensor) -> Tensor:
    """Share of the batch that is right, shape ()."""
    return (output.argmax(1) == targets).float().mean()


@dataclass
class Record:
    """What a contestant recorded, and how long its loop took."""

    loss: list[float] = field(default_factory=list)
    """Of each step, as the accuracy."""
    accuracy: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    """Of each epoch, as the accuracy."""
    val_accuracy: list[float] = field(default_factory=list)
    loop: float = 0.0
    """Seconds of wall time."""

    def step(self, loss: Tensor | float, right: Tensor | float) -> None:
        self.loss.append(float(loss))
        self.accuracy.append(float(right))

    def epoch(self, loss: float, right: float) -> None:
        self.val_loss.append(loss)
        self.val_accuracy.append(right)

    def __enter__(self) -> Record:
        self.loop = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.loop = time.perf_counter() - self.loop

    def tell(self) -> None:
        """The last line of what a contestant prints."""
        print(json.dumps(vars(self)))
