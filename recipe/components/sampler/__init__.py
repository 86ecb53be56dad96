"""Sampler: called as `sampler(targets, generator, **settings) -> indices` for each epoch.

`targets` holds the class index of each training sample, shape (n,), int64. The result is the order
of the samples in the epoch, shape (n,), int64, on the CPU: always n, so that each epoch has the
same number of steps; a sample may occur several times, or not at all. `generator` is a CPU
torch.Generator that is seeded for each epoch. No other randomness may be used, so that the order is
a pure function of seed and epoch.

`@audit(sampler)` (recipe.components.contract) registers `function(targets, indices, **settings)`,
which yields a line for each problem of an epoch's indices.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from recipe.components.contract import PlannedRun, check
from recipe.nn import rng


@check("sampler")
def check_sampler(planned: PlannedRun) -> Iterator[str]:
    """A sampler must return one valid index per sample, and use only the given generator."""
    targets, choice = planned.data.train.targets, planned.choice("sampler")
    stream = rng.make_generator(planned.spec.seed, "order")
    before = rng.snapshot_rng()
    indices = planned.sampler(targets, stream)
    if rng.snapshot_rng() != before:
        yield f"{choice} draws from a global random stream; use only the generator that it is given"
    shape = tuple(indices.shape)
    if shape != (len(targets),) or indices.dtype != torch.int64 or not indices.is_cpu:
        yield (
            f"{choice} returns {shape}, {indices.dtype}, on {indices.device.type}; return as many "
            f"indices as there are training samples, ({len(targets)},), int64, on the cpu"
        )
    elif len(targets) and not 0 <= int(indices.min()) <= int(indices.max()) < len(targets):
        yield (
            f"{choice} returns indices from {int(indices.min())} to {int(indices.max())}; return "
            f"indices from 0 to {len(targets) - 1}"
        )
