"""A Run: everything that trains, built, and how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from recipe.components.average import Average
from recipe.components.contract import Rates
from recipe.components.data import Data
from recipe.nn import rng
from recipe.training.collectives import Ranks
from recipe.training.freezing import Frozen
from recipe.training.frozen_cache.frozen_cache import Prefix
from recipe.training.lr_schedule import Schedule
from recipe.training.nonfinite import Guard
from recipe.training.pretrained import Start


@dataclass
class Run:
    """Names of parameters are those of the plain model."""

    seed: int
    epochs: int
    device: torch.device
    data: Data
    sampler: Callable[[Tensor, torch.Generator], Tensor]
    batch_size: int
    eval_batch_size: int
    accumulate: int
    """Parts in which a batch is computed."""
    model: nn.Module
    start: Start | None
    """Where the weights came from; None: drawn at random."""
    loss: Callable[[Tensor, Tensor], Tensor]
    frozen: Frozen
    optimizer: torch.optim.Optimizer
    base_lr: dict[str, float]
    """Learning rate of each group by name, before the schedule touched it."""
    groups: list[dict[str, Any]]
    """The parameter groups over all parameters, frozen ones included."""
    sharpness: Callable[[list[nn.Parameter], Callable[[], None]], None]
    schedule: Schedule
    rates: Rates
    """What the schedule will make of them."""
    ramp: list[float]
    """What they are multiplied by after 0, 1, ... steps."""
    clip: Callable[[list[nn.Parameter]], tuple[Tensor, Tensor]]
    autocast: Callable[[], AbstractContextManager[Any]]
    scaler: torch.amp.GradScaler
    augment: Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
    average: Average
    evaluation: Callable[[nn.Module, Tensor], Tensor]
    stop: Callable[[list[float]], bool]
    nonfinite: Guard
    ranks: Ranks
    """The processes that share it."""
    prefix: Prefix
    """What is frozen is computed once, where it can be."""
    remembers: Mapping[str, Any]
    """The parts, by the names above, that have a `state_dict`: more than a function of a step."""
    best: Best = field(default_factory=lambda: Best())
    at: Position = field(default_factory=lambda: Position())

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.data.train) // self.batch_size)

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    @property
    def over(self) -> bool:
        """Whether no epoch is left, or the run is stopped early."""
        return self.at.epoch >= self.epochs or bool(
            self.at.accuracies and self.at.batch == 0 and self.stop(self.at.accuracies)
        )


@dataclass
class Best:
    """The epoch with the highest validation accuracy so far (the first of equals)."""

    accuracy: float = -1.0
    epoch: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)
    """A copy on the CPU."""


@dataclass
class Position:
    """How far a run is; with the rest of the Run, all it takes to go on from here."""

    epoch: int = 0
    """Epochs that are over."""
    batch: int = 0
    """Batches of the next epoch that are over."""
    step: int = 0
    bitten: float | Tensor = 0.0
    """Steps in which the clip bit."""
    left_out: set[int] = field(default_factory=set)
    """Batches of this epoch, counted from 0, that weren't finite."""
    accuracies: list[float] = field(default_factory=list)
    """val/accuracy of the epochs that are over."""
    rates: dict[str, float] = field(default_factory=dict)
    """Learning rate of each group in the last step."""
    augmentation: torch.Generator = field(default_factory=torch.Generator)
    """Of the epoch that `batch` is in."""
    began: float = 0.0
    """When this epoch did, on the clock of time.perf_counter."""
    drawn: rng.States | None = None
    """Where the global streams go on; None: where they are."""


def order(run: Run, epoch: int) -> Iterator[Tensor]:
    """The epoch's batches of indices: a pure function of the seed and the epoch."""
    stream = rng.generator(run.seed, "order", epoch)
    yield from run.sampler(run.data.train.targets, stream).split(run.batch_size)
