"""What a run starts from, each thing as a hash: runs of one seed share all of it, whatever tricks
are on, and only such runs can be compared pair by pair."""

from __future__ import annotations

import torch

from recipe.components.data import hash_tensors
from recipe.nn import rng
from recipe.training.run import Run, epoch_batches

HASHED_PARTS = ("weights", "split", "order", "augmentation", "dropout")

NUM_RANDOM_SAMPLES = 16
"""Numbers that stand for a whole stream: two generators that agree on so many are the same."""


def hash_initial_state(run: Run) -> dict[str, str]:
    """Of each of SHARED: 16 hexadecimal digits. The run has been built and not trained yet.

    `weights`: the model's parameters and buffers by name. `split`: the samples of training and
    validation data. `order`: in which the first epoch goes through them, whatever the batch size.
    `augmentation`, `dropout`: the beginning of the stream that is drawn from.
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
