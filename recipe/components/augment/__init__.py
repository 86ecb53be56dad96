"""Augment: called as `augment(inputs, targets, generator, **settings) -> (inputs, targets)`.

On whole training batches: inputs (batch, channels, height, width), normalised; targets (batch,)
class indices. All randomness comes from `generator`, a CPU torch.Generator that the engine
seeds anew for every epoch. What comes out as targets is said by `gives` in the option file, a
setting of the engine's own: `indices`, or `probabilities`, shape (batch, classes). What comes
in is never changed in place.
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
    """A number from Beta(alpha, alpha), between 0 and 1, drawn by way of `generator` alone."""
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    return random.Random(seed).betavariate(alpha, alpha)


def sample_permutation(targets: Tensor, generator: torch.Generator) -> Tensor:
    """For every sample the index of the one it is mixed with: a permutation, shape (batch,)."""
    order = torch.randperm(len(targets), generator=generator)
    return order.to(targets.device, non_blocking=True)


def mix_targets(targets: Tensor, permutation: Tensor, ratio: float, classes: int) -> Tensor:
    """Probabilities (batch, classes), float32: `share` for the own class, the rest for the
    partner's. Raises ValueError for targets that are not class indices."""
    if targets.ndim != 1 or targets.dtype != torch.int64:
        raise ValueError(
            f"augment: only class indices of shape (batch,), int64, can be mixed, got "
            f"{tuple(targets.shape)}, {targets.dtype}; use augment=none"
        )
    one_hot = functional.one_hot(targets, classes).float()
    return ratio * one_hot + (1 - ratio) * one_hot[permutation]


def import_transforms(option: str) -> Any:
    """torchvision.transforms; raises ValueError where torchvision can't be imported."""
    return import_optional("torchvision.transforms", f"augment={option}", "vision")


@contextmanager
def seed_global_rng(generator: torch.Generator) -> Iterator[None]:
    """For what draws from torch's global CPU stream and from no other: in the block that is one
    seeded by way of `generator`, afterwards it is where it was."""
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would move GPUs' streams too
        yield
