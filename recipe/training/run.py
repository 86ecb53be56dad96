"""A Run: everything that trains, built, and how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from recipe.components.average import Average
from recipe.components.contract import LRCurves
from recipe.components.data import Data
from recipe.config.instantiate import Components
from recipe.nn import rng
from recipe.training.collectives import Collectives
from recipe.training.freezing import FreezeSchedule
from recipe.training.frozen_cache.frozen_cache import FrozenCache
from recipe.training.lr_schedule import LRSchedule
from recipe.training.nonfinite import NonFiniteGuard
from recipe.training.pretrained import InitialWeights


@dataclass
class Run:
    """What a run trains with, and its progress. Parameter names are those of the plain model."""

    components: Components
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
    initial_weights: InitialWeights | None
    """Where the weights came from; None: drawn at random."""
    loss: Callable[[Tensor, Tensor], Tensor]
    freeze_schedule: FreezeSchedule
    optimizer: torch.optim.Optimizer
    base_lr: dict[str, float]
    """Learning rate of each group by name, before the schedule touched it."""
    param_groups: list[dict[str, Any]]
    """The parameter groups over all parameters, frozen ones included."""
    sharpness: Callable[[list[nn.Parameter], Callable[[], None]], None]
    lr_schedule: LRSchedule
    lr_curves: LRCurves
    """What the schedule will make of them."""
    warmup_factors: list[float]
    """What they are multiplied by after 0, 1, ... steps."""
    clip: Callable[[list[nn.Parameter]], tuple[Tensor, Tensor]]
    autocast: Callable[[], AbstractContextManager[Any]]
    scaler: torch.amp.GradScaler
    augment: Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
    average: Average
    evaluation: Callable[[nn.Module, Tensor], Tensor]
    stop: Callable[[list[float]], bool]
    nonfinite_guard: NonFiniteGuard
    collectives: Collectives
    """The processes that share it."""
    frozen_cache: FrozenCache
    """What is frozen is computed once, where it can be."""
    stateful_components: Mapping[str, Any]
    """The parts, by the names above, that have a `state_dict`: more than a function of a step."""
    best: BestEpoch = field(default_factory=lambda: BestEpoch())
    position: Position = field(default_factory=lambda: Position())

    @property
    def dataset_properties(self) -> dict[str, Any]:
        return compute_dataset_properties(self.data)

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.data.train) // self.batch_size)

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    @property
    def is_finished(self) -> bool:
        """Whether no epoch is left, or the run is stopped early."""
        return self.position.epoch >= self.epochs or bool(
            self.position.accuracies
            and self.position.batch == 0
            and self.stop(self.position.accuracies)
        )


def compute_dataset_properties(data: Data) -> dict[str, Any]:
    """The values of settings that are `auto`; see `recipe.config.schema.DATASET_PROPERTIES`."""
    counts = data.train.targets.bincount(minlength=len(data.classes)).tolist()
    return {
        "channels": data.channels, "classes": len(data.classes), "size": data.size[0],
        "counts": counts, "mean": list(data.mean), "std": list(data.std),
    }  # fmt: skip


@dataclass
class BestEpoch:
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
    clipped_steps: float | Tensor = 0.0
    """Steps in which the clip bit."""
    skipped_batches: set[int] = field(default_factory=set)
    """Batches of this epoch, counted from 0, that weren't finite."""
    accuracies: list[float] = field(default_factory=list)
    """val/accuracy of the epochs that are over."""
    learning_rates: dict[str, float] = field(default_factory=dict)
    """Learning rate of each group in the last step."""
    augmentation_rng: torch.Generator = field(default_factory=torch.Generator)
    """Of the epoch that `batch` is in."""
    epoch_start_time: float = 0.0
    """When this epoch did, on the clock of time.perf_counter."""
    rng_states: rng.RngStates | None = None
    """Where the global streams go on; None: where they are."""


def epoch_batches(run: Run, epoch: int) -> Iterator[Tensor]:
    """The epoch's batches of indices: a pure function of the seed and the epoch."""
    stream = rng.make_generator(run.seed, "order", epoch)
    yield from run.sampler(run.data.train.targets, stream).split(run.batch_size)
