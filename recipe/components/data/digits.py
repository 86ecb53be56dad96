"""Handwritten digits: 1797 real images of 8 x 8 pixels, from 43 people, shipped with scikit-learn.

Source: Alpaydin and Kaynak 1998, https://archive.ics.uci.edu/dataset/80 (its test split). Read from
scikit-learn's file without importing scikit-learn, which is slow.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from recipe.components.contract import has_complete_digest
from recipe.components.data import Data, InMemory, balanced_subset, hash_tensors, stratified_split
from recipe.components.data.image_reading import channel_mean_and_std, crop_and_resize, normalise
from recipe.errors import SettingError
from recipe.nn import memory_limit

Digit = Annotated[int, Field(ge=0, le=9)]


@has_complete_digest
def digits(
    split: torch.Generator,
    *,
    labels: Annotated[list[Digit], Field(min_length=2)],
    size: PositiveInt,
    channels: Literal[1, 3],
    val: Annotated[float, Field(gt=0, lt=1)],
    train_size: PositiveInt | None,
) -> Data:
    """Returns the images of the digits in `labels`, with shape (channels, size, size), normalised.

    A target is a position in `labels`. Mean and standard deviation are those of the training images
    in use. `train_size` changes neither the validation images nor the order in which training
    images are added.
    """
    if len(set(labels)) < len(labels):
        raise SettingError("data.labels", "must not have duplicates", labels, "list each once")
    pixels, targets = _read_digits(labels)
    names = tuple(str(label) for label in labels)
    train, val_part = stratified_split(targets, val, names, split)
    if train_size is not None:
        if not len(labels) <= train_size <= len(train):
            rule = f"must be from {len(labels)} (one image per digit) to {len(train)} (all images)"
            raise SettingError("data.train_size", rule, train_size, "use null for all")
        train = train[balanced_subset(targets[train], train_size, split)]
    memory_limit.check_free_memory(
        8 * len(targets) * channels * size**2, "data.size", f"use a size below {size}"
    )
    images = crop_and_resize(pixels[:, None] / 16, (size, size)).repeat(1, channels, 1, 1)
    mean, std = channel_mean_and_std(images[train])

    def part(indices: Tensor) -> InMemory:
        return InMemory(normalise(images[indices], mean=mean, std=std), targets[indices])

    used = [each[indices] for indices in (train, val_part) for each in (pixels, targets)]
    return Data(
        train=part(train),
        val=part(val_part),
        classes=names,
        channels=channels,
        size=(size, size),
        mean=mean,
        std=std,
        digest=hash_tensors(*used, f"digits {labels} {channels} {size}"),
    )


def _read_digits(labels: list[int]) -> tuple[Tensor, Tensor]:
    """Returns pixels (n, 8, 8), uint8 in 0..16, and the positions in `labels` (n,)."""
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise ValueError(
            "data: the digits are part of scikit-learn, which is missing; install scikit-learn"
        )
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if not file.exists():
        raise ValueError(f"data: this scikit-learn has no {file}; install scikit-learn>=1.5,<2")
    table = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.uint8))
    wanted = table[:, -1, None] == torch.tensor(labels)
    chosen = wanted.any(1)
    return table[chosen, :-1].reshape(-1, 8, 8), wanted[chosen].long().argmax(1)
