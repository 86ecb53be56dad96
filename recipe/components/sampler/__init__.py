"""Sampler: called as `sampler(targets, generator, **settings) -> indices` for each epoch.

`targets` holds the class index of each training sample, shape (n,), int64. The result is the order
of the samples in the epoch, shape (n,), int64, on the CPU: always n, so that each epoch has the
same number of steps; a sample may occur several times, or not at all. `generator` is a CPU
torch.Generator that is seeded for each epoch. No other randomness may be used, so that the order is
a pure function of seed and epoch.

`@audit(sampler)` (recipe.components.contract) registers `function(targets, indices, **settings)`,
which yields what is wrong with the indices of an epoch, one line each. Only the order of
sampler=shuffled is without effect.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from recipe.components.contract import PlannedRun, check
from recipe.nn import rng


@check("sampler")
def check_sampler(planned: PlannedRun) -> Iterator[str]:
    """What a sampler gives must be as many samples that are there, the same each time."""
    targets, choice = planned.data.train.targets, planned.choice("sampler")
    stream = rng.make_generator(planned.spec.seed, "order")
    before = rng.snapshot_rng()
    indices = planned.sampler(targets, stream)
    if rng.snapshot_rng() != before:
        yield f"{choice} draws from a global random stream; draw from the generator it is given"
    shape = tuple(indices.shape)
    if shape != (len(targets),) or indices.dtype != torch.int64 or not indices.is_cpu:
        yield (
            f"{choice} gives {shape}, {indices.dtype}, on {indices.device.type}; it must give as "
            f"many indices as there are training samples, ({len(targets)},), int64, on the cpu"
        )
    elif len(targets) and not 0 <= int(indices.min()) <= int(indices.max()) < len(targets):
        yield (
            f"{choice} gives indices from {int(indices.min())} to {int(indices.max())}, but there "
            f"are samples 0 to {len(targets) - 1}"
        )
