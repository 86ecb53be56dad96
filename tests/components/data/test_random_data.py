from typing import Any

import torch

from recipe.components.data import Data
from recipe.components.data.random import random


def made(seed: int = 0, **changed: Any) -> Data:
    chosen = {"n_train": 6, "n_val": 4, "channels": 3, "size": 8, "n_classes": 2} | changed
    return random(torch.Generator().manual_seed(seed), **chosen)


def test_random_data_has_the_requested_images_and_classes() -> None:
    data = made(n_train=300, n_classes=5)
    assert (len(data.train), len(data.val), data.classes) == (300, 4, tuple("01234"))
    ((images, targets),) = data.train.batches([torch.arange(300)])
    assert images.shape == (300, 3, 8, 8) and images.dtype == torch.float32
    assert targets.dtype == torch.int64 and set(targets.tolist()) == {0, 1, 2, 3, 4}
    assert abs(images.mean()) < 0.02 and abs(images.std() - 1) < 0.02  # of 57,600 normal numbers
    assert (data.channels, data.size, data.mean, data.std) == (3, (8, 8), (0.0,) * 3, (1.0,) * 3)


def test_random_data_depends_on_the_seed_but_not_on_global_rng() -> None:
    first = made()
    torch.rand(5)
    assert made().digest == first.digest
    variants = [
        made(1),
        made(n_train=5, n_val=5),
        made(n_classes=3),
        made(size=4),
        made(channels=1),
    ]
    assert len({first.digest, *(data.digest for data in variants)}) == 6
