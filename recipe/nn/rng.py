"""Independent random streams, each named, all spawned by one seed.

A stream's state is a pure function of the seed, its name and, where it starts anew, the epoch:
drawing from one never moves another, and an epoch can be replayed without those before it.
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
"""Where the global streams are: tensors and plain numbers, as a checkpoint can hold them."""


def derive_seed(seed: int, stream: str, epoch: int = 0) -> int:
    """A 63-bit seed for one stream."""
    digest = hashlib.sha256(f"{seed}/{stream}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def make_generator(seed: int, stream: str, epoch: int = 0) -> torch.Generator:
    """A CPU generator at the start of a stream."""
    return torch.Generator().manual_seed(derive_seed(seed, stream, epoch))


def seed_global_rng(seed: int, stream: str, epoch: int = 0) -> None:
    """Puts the global streams of torch (all devices), numpy and Python at the start of a stream."""
    start = derive_seed(seed, stream, epoch)
    torch.manual_seed(start)
    np.random.seed(start % 2**32)
    random.seed(start)


def get_rng_states() -> RngStates:
    """Where the global streams of torch (all devices), numpy and Python are."""
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
    """Puts them there again. GPUs that are no longer there are passed over."""
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
    """Something to compare, which is equal where no global stream was drawn from in between."""
    _, keys, *rest = np.random.get_state()
    assert isinstance(keys, np.ndarray)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    on_devices = [bytes(state.numpy()) for state in (torch.get_rng_state(), *cuda)]
    return on_devices, keys.tobytes(), rest, random.getstate()


@contextmanager
def isolate_seeded_rng(seed: int, stream: str) -> Iterator[None]:
    """In the block the global streams are at the start of a stream, afterwards as before."""
    with isolate_rng():
        seed_global_rng(seed, stream)
        yield


@contextmanager
def isolate_rng() -> Iterator[None]:
    """Whatever the block draws, the global streams are afterwards as they were before."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
