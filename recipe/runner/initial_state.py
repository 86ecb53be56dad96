"""Hashes of a run's initial state. Runs with the same seed share it, whichever tricks they use, and
only runs that share it are compared as pairs."""

from __future__ import annotations

import torch

from recipe.components.data import hash_tensors
from recipe.nn import rng
from recipe.training.run import Run, epoch_batches

HASHED_PARTS = ("weights", "split", "order", "augmentation", "dropout")

NUM_RANDOM_SAMPLES = 16
"""Generators that agree on this many numbers are taken as equal."""


def hash_initial_state(run: Run) -> dict[str, str]:
    """Returns 16 hexadecimal digits for each of HASHED_PARTS, for a run that isn't trained yet.

    `weights`: the model's parameters and buffers by name. `split`: the samples of training and
    validation data. `order`: the order of the samples in the first epoch, for any batch size.
    `augmentation`, `dropout`: the first numbers of their random-number generators.
    """
    with rng.isolate_rng():
        rng.seed_global_rng(run.seed, "dropout")
        dropout = torch.rand(NUM_RANDOM_SAMPLES)
    augmentation = torch.rand(
        NUM_RANDOM_SAMPLES, generator=rng.make_generator(run.seed, "augmentation")
    )
    state = {k: v for k, v in run.model.state_dict().items() if isinstance(v, torch.Tensor)}
    found = {
        "weights": hash_tensors(*(part for pair in state.items() for part in pair)),
        "split": run.data.digest,
        "order": hash_tensors(torch.cat(list(epoch_batches(run, 0)))),
        "augmentation": hash_tensors(augmentation),
        "dropout": hash_tensors(dropout),
    }
    return {name: found[name][:16] for name in HASHED_PARTS}
