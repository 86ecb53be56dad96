"""Random streams: named, independent, and none of them moved by those who only look."""

from __future__ import annotations

import random

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from recipe import streams

NAMES = ("weights", "split", "order", "augmentation", "dropout")


def drawn() -> tuple[list[float], list[float], list[float]]:
    """The next numbers of torch's, numpy's and Python's global streams."""
    return torch.rand(3).tolist(), np.random.rand(3).tolist(), [random.random() for _ in range(3)]


@given(seed=st.integers(0, 2**64))
def test_every_name_and_epoch_is_a_stream_of_its_own(seed: int) -> None:
    starts = {streams.spawn(seed, name, epoch) for name in NAMES for epoch in range(20)}
    assert len(starts) == 5 * 20 and all(0 <= start < 2**63 for start in starts)


def test_neighbouring_seeds_and_seed_0_are_streams_like_any_other() -> None:
    rows = {tuple(torch.rand(2, generator=streams.generator(s, "order")).tolist()) for s in (0, 1)}
    assert len(rows) == 2
    streams.seed_global(0, "dropout")
    first = drawn()
    streams.seed_global(0, "dropout")
    assert drawn() == first


def test_drawing_from_one_stream_moves_no_other() -> None:
    alone = torch.rand(4, generator=streams.generator(7, "order", 3))
    other = streams.generator(7, "augmentation", 3)
    mine = streams.generator(7, "order", 3)
    torch.rand(100, generator=other)
    assert torch.equal(torch.rand(4, generator=mine), alone)


def test_a_stream_is_the_same_on_every_machine_and_in_every_version() -> None:
    """Recorded runs could not be repeated if this changed: sha256("0/order/0")'s first 63 bits."""
    import hashlib

    expected = int(hashlib.sha256(b"0/order/0").hexdigest()[:16], 16) // 2
    assert streams.spawn(0, "order") == expected


def test_untouched_leaves_all_global_streams_where_they_were_also_after_an_error() -> None:
    streams.seed_global(1, "weights")
    expected = drawn()
    streams.seed_global(1, "weights")
    try:
        with streams.untouched():
            drawn()
            raise KeyError
    except KeyError:
        pass
    assert drawn() == expected
