"""What a run starts from, each thing as a hash: runs of one seed share all of it, whatever tricks
are on, and only such runs can be compared pair by pair."""

from __future__ import annotations

import torch

from recipe.components.data import digest
from recipe.nn import rng
from recipe.training.run import Run, order

SHARED = ("weights", "split", "order", "augmentation", "dropout")

DRAWN = 16
"""Numbers that stand for a whole stream: two generators that agree on so many are the same."""


def hashes(run: Run) -> dict[str, str]:
    """Of each of SHARED: 16 hexadecimal digits. The run has been built and not trained yet.

    `weights`: the model's parameters and buffers by name. `split`: the samples of training and
    validation data. `order`: in which the first epoch goes through them, whatever the batch size.
    `augmentation`, `dropout`: the beginning of the stream that is drawn from.
    """
    with rng.untouched():
        rng.seed_global(run.seed, "dropout")
        dropout = torch.rand(DRAWN)
    augmentation = torch.rand(DRAWN, generator=rng.generator(run.seed, "augmentation"))
    state = {k: v for k, v in run.model.state_dict().items() if isinstance(v, torch.Tensor)}
    found = {
        "weights": digest(*(part for pair in state.items() for part in pair)),
        "split": run.data.digest,
        "order": digest(torch.cat(list(order(run, 0)))),
        "augmentation": digest(augmentation),
        "dropout": digest(dropout),
    }
    return {name: found[name][:16] for name in SHARED}
