"""Independent random streams, each named, all spawned by one seed.

A stream's state is a pure function of the seed, its name and, where it starts anew, the epoch:
drawing from one never moves another, and an epoch can be replayed without those before it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def spawn(seed: int, name: str, epoch: int = 0) -> int:
    """A 63-bit seed for one stream."""
    digest = hashlib.sha256(f"{seed}/{name}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, name: str, epoch: int = 0) -> torch.Generator:
    """A CPU generator at the start of a stream."""
    return torch.Generator().manual_seed(spawn(seed, name, epoch))


def seed_global(seed: int, name: str, epoch: int = 0) -> None:
    """Puts the global streams of torch (all devices), numpy and Python at the start of a stream."""
    start = spawn(seed, name, epoch)
    torch.manual_seed(start)
    np.random.seed(start % 2**32)
    random.seed(start)


@contextmanager
def seeded(seed: int, name: str) -> Iterator[None]:
    """In the block the global streams are at the start of a stream, afterwards as before."""
    with untouched():
        seed_global(seed, name)
        yield


@contextmanager
def untouched() -> Iterator[None]:
    """Whatever the block draws, the global streams are afterwards as they were before."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
