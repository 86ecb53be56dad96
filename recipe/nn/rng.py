"""Independent, named random streams, all derived from one seed.

A stream starts from the seed, its name and, for streams of an epoch, the epoch: drawing from one
never changes another, and an epoch can be repeated without those before it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

RngStates = dict[str, Any]
"""States of the global streams: tensors and plain values."""


def derive_seed(seed: int, stream: str, epoch: int = 0) -> int:
    """A 63-bit seed for a stream."""
    digest = hashlib.sha256(f"{seed}/{stream}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def make_generator(seed: int, stream: str, epoch: int = 0) -> torch.Generator:
    """A CPU generator at the start of a stream."""
    return torch.Generator().manual_seed(derive_seed(seed, stream, epoch))


def seed_global_rng(seed: int, stream: str, epoch: int = 0) -> None:
    """Seeds the global streams of torch (all devices), numpy and Python."""
    start = derive_seed(seed, stream, epoch)
    torch.manual_seed(start)
    np.random.seed(start % 2**32)
    random.seed(start)


def get_rng_states() -> RngStates:
    """The states of the global streams of torch (all devices), numpy and Python."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    assert isinstance(keys, np.ndarray)
    version, numbers, second = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
        "numpy": [name, keys.tolist(), position, has_gauss, gauss],
        "python": [version, list(numbers), second],
    }


def set_rng_states(states: RngStates) -> None:
    """Restores the states of the global streams; those of missing GPUs are ignored."""
    torch.set_rng_state(states["torch"])
    for index, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state, index)
    if states["mps"] is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"])
    name, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), position, has_gauss, gauss))
    version, numbers, second = states["python"]
    random.setstate((version, tuple(numbers), second))


def snapshot_rng() -> object:
    """A value that is equal to an earlier one if no global stream was drawn from in between."""
    _, keys, *rest = np.random.get_state()
    assert isinstance(keys, np.ndarray)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    on_devices = [bytes(state.numpy()) for state in (torch.get_rng_state(), *cuda)]
    return on_devices, keys.tobytes(), rest, random.getstate()


@contextmanager
def isolate_seeded_rng(seed: int, stream: str) -> Iterator[None]:
    """Seeds the global streams for the block, and restores them afterwards."""
    with isolate_rng():
        seed_global_rng(seed, stream)
        yield


@contextmanager
def isolate_rng() -> Iterator[None]:
    """Restores the global streams after the block."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
