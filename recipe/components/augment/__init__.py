"""Augment: called as `augment(inputs, targets, generator, **settings) -> (inputs, targets)`.

Transforms a training batch: inputs (batch, channels, height, width), normalised; targets (batch,),
class indices. It must not modify them in place, and must draw all random numbers from `generator`,
a CPU torch.Generator that is seeded for each epoch. The setting `gives` is read by the engine: the
targets returned are `indices`, or `probabilities` of shape (batch, classes).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from recipe.nn.optional_imports import import_optional


def sample_mix_ratio(alpha: float, generator: torch.Generator) -> float:
    """Draws a number in [0, 1] from Beta(alpha, alpha), with `generator` as the only source."""
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    return random.Random(seed).betavariate(alpha, alpha)


def sample_permutation(targets: Tensor, generator: torch.Generator) -> Tensor:
    """Returns for each sample the index of the sample it is mixed with, shape (batch,)."""
    order = torch.randperm(len(targets), generator=generator)
    return order.to(targets.device, non_blocking=True)


def mix_targets(targets: Tensor, permutation: Tensor, ratio: float, classes: int) -> Tensor:
    """Returns probabilities (batch, classes), float32: `ratio` for the sample's class, the rest for
    that of its partner. Raises ValueError for targets that are not class indices."""
    if targets.ndim != 1 or targets.dtype != torch.int64:
        raise ValueError(
            f"augment: only class indices of shape (batch,), int64, can be mixed, got "
            f"{tuple(targets.shape)}, {targets.dtype}; use augment=none"
        )
    one_hot = functional.one_hot(targets, classes).float()
    return ratio * one_hot + (1 - ratio) * one_hot[permutation]


def import_transforms(option: str) -> Any:
    """Returns torchvision.transforms; raises ValueError if torchvision can't be imported."""
    return import_optional("torchvision.transforms", f"augment={option}", "vision")


@contextmanager
def seed_global_rng(generator: torch.Generator) -> Iterator[None]:
    """Seeds torch's global CPU generator from `generator` within the block and restores its state
    afterwards. Other global generators are not changed."""
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs too
        yield
