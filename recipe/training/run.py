"""A run: everything that takes part in training, and its progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from recipe.components.average import Average
from recipe.components.contract import LRCurves, Stateful
from recipe.components.data import Data
from recipe.config.instantiate import Components
from recipe.nn import rng
from recipe.training.collectives import Collectives
from recipe.training.freezing import FreezeSchedule
from recipe.training.frozen_cache.frozen_cache import FrozenCache
from recipe.training.lr_schedule import LRSchedule
from recipe.training.nonfinite import NonFiniteGuard
from recipe.training.pretrained import InitialWeights
from recipe.training.step_components import StepComponent


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
    """The number of micro-batches of a step."""
    model: nn.Module
    initial_weights: InitialWeights | None
    """None: the weights are drawn at random."""
    loss: StepComponent[[Tensor, Tensor], Tensor]
    freeze_schedule: FreezeSchedule
    optimizer: torch.optim.Optimizer
    base_lr: dict[str, float]
    """Learning rate of each parameter group by name, before the schedule."""
    param_groups: list[dict[str, Any]]
    """Over all parameters, including frozen ones."""
    sharpness: StepComponent[[list[nn.Parameter], Callable[[], None]], None]
    lr_schedule: LRSchedule
    lr_curves: LRCurves
    warmup_factors: list[float]
    """The factor on all learning rates after 0, 1, ... training steps."""
    clip: StepComponent[[list[nn.Parameter]], tuple[Tensor, Tensor]]
    autocast: Callable[[], AbstractContextManager[Any]]
    scaler: torch.amp.GradScaler
    augment: StepComponent[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
    average: Average
    evaluation: Callable[[nn.Module, Tensor], Tensor]
    stop: Callable[[list[float]], bool]
    nonfinite_guard: NonFiniteGuard
    collectives: Collectives
    frozen_cache: FrozenCache
    stateful_components: Mapping[str, Stateful]
    """By the names of the fields above."""
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
        """Whether all epochs are trained, or early stopping has ended the run."""
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
    """The epoch with the highest validation accuracy so far; the first one of equals."""

    accuracy: float = -1.0
    epoch: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)
    """A copy on the CPU."""


@dataclass
class Position:
    """The progress of a run; together with the rest of the Run, all that resuming needs."""

    epoch: int = 0
    """Finished epochs."""
    batch: int = 0
    """Finished batches of the current epoch."""
    step: int = 0
    clipped_steps: float | Tensor = 0.0
    skipped_batches: set[int] = field(default_factory=set)
    """Batches of the current epoch, counted from 0, that were not finite."""
    accuracies: list[float] = field(default_factory=list)
    """val/accuracy of each finished epoch."""
    learning_rates: dict[str, float] = field(default_factory=dict)
    """Learning rate of each parameter group in the last step."""
    augmentation_rng: torch.Generator = field(default_factory=torch.Generator)
    epoch_start_time: float = 0.0
    """In seconds of time.perf_counter."""
    rng_states: rng.RngStates | None = None
    """States of the global random streams to restore; None: they are left as they are."""


def epoch_batches(run: Run, epoch: int) -> Iterator[Tensor]:
    """The indices of each batch of an epoch; a pure function of the seed and the epoch."""
    stream = rng.make_generator(run.seed, "order", epoch)
    yield from run.sampler(run.data.train.targets, stream).split(run.batch_size)
