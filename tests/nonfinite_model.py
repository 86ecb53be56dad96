"""A model whose output or gradient becomes NaN or infinite for marked samples."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from recipe.components.data import InMemory
from recipe.training.run import Run

Overrides = tuple[str, ...]

MARK = 9.0
"""A pixel that no noise reaches: by it the layers below know their sample."""

SEED = 5


class Gate(nn.Module):
    """Passes features on, but those of a marked image come out wrong, or get a wrong gradient."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, features: Tensor, images: Tensor) -> Any:
        marked = images.amax((1, 2, 3)) == MARK
        passed = features.clone()
        if self.kind == "root":  # 0, with the gradient of a root at 0
            passed[marked] = (0 * features[marked]).sqrt()
        else:
            passed[marked] = features[marked] * float(self.kind)
        return {"features": (passed, marked)}


class Net(nn.Module):
    """A layer that gives a dict of tuples, one that works in place, a mask that holds -inf."""

    mask: Tensor

    def __init__(self, channels: int, size: int, classes: int, gate: str, dropout: float) -> None:
        super().__init__()
        self.head = nn.Linear(3 * size**2, classes)  # made first, run last
        self.register_buffer("mask", torch.tensor([0.0, -math.inf]))
        self.convolution = nn.Conv2d(channels, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.relu = nn.ReLU(inplace=True)
        self.gate = Gate(gate)
        self.dropout = nn.Dropout(dropout)

    def forward(self, images: Tensor) -> Tensor:
        features = self.relu(self.norm(self.convolution(images)))
        passed, _ = self.gate(features, images)["features"]
        output: Tensor = self.head(self.dropout(passed).flatten(1))
        return output + self.mask.softmax(0)[1]  # that of -inf is 0


def net(
    *, channels: int, size: int, classes: int, hidden: list[int], dropout: float, gate: str
) -> Net:
    return Net(channels, size, classes, gate, dropout)


def chosen(gate: str = "nan", dropout: float = 0.5) -> Overrides:
    return (
        "model=mlp", f"model._target_={__name__}.net", f"trust=[{__name__}]",
        f"model.dropout={dropout}", f"+model.gate={gate!r}", f"seed={SEED}",
    )  # fmt: skip


def marked(run: Run, *samples: int, part: str = "train") -> Run:
    split = getattr(run.data, part)
    assert isinstance(split, InMemory)
    for sample in samples:
        split.inputs[sample, 0, 0, 0] = MARK
    return run


def skipping(gate: str = "nan", *overrides: str) -> Overrides:
    return (
        *chosen(gate), "on_nonfinite=skip", "epochs=3", "optimizer.lr=0.1",
        "optimizer.momentum=0.9", "optimizer.weight_decay=0.01", "scheduler=exponential",
        "scheduler.gamma=0.9", "scheduler.per=step", *overrides,
    )  # fmt: skip
