"""The training loop: plain PyTorch over the parts of a Run, a generator of metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor

from recipe.nn import rng, sharded
from recipe.training import step as training_step
from recipe.training.evaluation import Metrics, validate
from recipe.training.lr_schedule import get_learning_rates
from recipe.training.nonfinite import NonFiniteError
from recipe.training.run import BestEpoch, Run, epoch_batches


@dataclass(frozen=True)
class MetricsEvent:
    """The metrics of a step, or of an epoch's evaluation."""

    step: int
    epoch: int
    """Counted from 1."""
    metrics: Metrics
    is_epoch_end: bool = False
    is_run_end: bool = False
    is_best: bool = False
    """`Run.best` was updated."""


def train(run: Run) -> Iterator[MetricsEvent]:
    """Trains from the run's position to its end; yields an event after each step and evaluation.

    While the generator is suspended, the run is in its state after `run.position.step` steps. On a
    GPU the metrics of several steps are read together, so an event may be of an earlier step.
    """
    while not run.is_finished:
        epoch = run.position.epoch
        run.freeze_schedule.unfreeze(run.optimizer, run.param_groups, epoch)
        run.model.train()
        if run.position.batch == 0:
            run.collectives.seed_dropout(run.seed, epoch)
            run.position.augmentation_rng = rng.make_generator(run.seed, "augmentation", epoch)
            run.position.epoch_start_time = time.perf_counter()
        elif run.position.rng_states is not None:
            rng.set_rng_states(run.position.rng_states)
        run.position.rng_states = None
        yield from _train_epoch(run, epoch)
        yield _finish_epoch(run, epoch)


def _train_epoch(run: Run, epoch: int) -> Iterator[MetricsEvent]:
    """Trains the remaining batches of an epoch."""
    at = run.position
    block = _MetricsBuffer(1 if run.device.type == "cpu" else 50)
    left = list(epoch_batches(run, epoch))[at.batch :]
    feed = run.frozen_cache.training_inputs(run, epoch, epoch_batches(run, epoch))
    model = run.collectives.wrap_model(feed.model)
    read = feed.split.batches(map(run.collectives.indices_to_read, left))
    for batch, (inputs, targets) in zip(left, read, strict=True):
        at.learning_rates = get_learning_rates(run.optimizer)
        rates = {f"lr/{key}": lr for key, lr in at.learning_rates.items()}
        inputs = inputs.to(run.device, non_blocking=True)
        targets = targets.to(run.device, non_blocking=True)
        try:
            done = training_step.training_step(run, feed, model, inputs, targets, len(batch))
        except NonFiniteError as error:
            yield from block.flush()
            position = at.step + 1, epoch + 1, at.batch + 1
            error.set_location("training", *position, run.data.train, batch)
            raise
        if done.is_skipped:
            at.skipped_batches.add(at.batch)
        at.step, at.batch = at.step + 1, at.batch + 1
        at.clipped_steps = done.is_clipped + at.clipped_steps
        if done.has_stepped:
            run.average.after_step(at.step / run.total_steps)
        numbers = torch.stack([done.loss, done.accuracy, done.grad_norm])
        yield from block.add(at.step, epoch + 1, numbers, rates)
    yield from block.flush()


def _finish_epoch(run: Run, epoch: int) -> MetricsEvent:
    """Averages and evaluates, then moves the position to the start of the next epoch."""
    at = run.position
    trained = time.perf_counter() - at.epoch_start_time
    left_out = at.skipped_batches
    run.collectives.sync_buffers(run.model)
    run.average.after_epoch((epoch + 1) / run.epochs, lambda: _epoch_inputs(run, epoch, left_out))
    metrics = validate(run, epoch + 1)
    run.lr_schedule.after_epoch(metrics)
    improved = _update_best(run, epoch + 1, metrics["val/accuracy"])
    metrics |= {
        "best/val_accuracy": run.best.accuracy,
        "best/epoch": run.best.epoch,
        "clip/hit_rate": float(at.clipped_steps) / at.step,
        "time/epoch_s": time.perf_counter() - at.epoch_start_time,
        "time/samples_per_s": len(run.data.train) / trained,
        "memory/peak_mb": _peak_memory_mb(run.device),
    }
    if run.nonfinite_guard.policy == "skip":
        metrics["nonfinite/skipped"] = run.nonfinite_guard.skipped_batches
    if run.data.train.skips_unreadable:
        metrics["data/skipped"] = len(run.data.train.unreadable) + len(run.data.val.unreadable)
    at.epoch, at.batch, at.skipped_batches = epoch + 1, 0, set()
    at.accuracies.append(metrics["val/accuracy"])
    return MetricsEvent(
        at.step, epoch + 1, metrics, is_epoch_end=True, is_run_end=run.is_finished, is_best=improved
    )


def _epoch_inputs(run: Run, epoch: int, left_out: set[int]) -> Iterator[Tensor]:
    """The inputs of the epoch's batches again, without the batches that were skipped."""
    used = (batch for n, batch in enumerate(epoch_batches(run, epoch)) if n not in left_out)
    for inputs, _ in run.data.train.batches(used):
        yield inputs.to(run.device, non_blocking=True)


def _update_best(run: Run, epoch: int, accuracy: float) -> bool:
    if accuracy <= run.best.accuracy:
        return False
    state = {
        k: sharded.gather_full_tensor(v.detach()) for k, v in run.average.model.state_dict().items()
    }
    run.best = BestEpoch(accuracy, epoch, {k: v.to("cpu", copy=True) for k, v in state.items()})
    return True


def _peak_memory_mb(device: torch.device) -> float:
    """The peak of torch's allocations on a GPU; on the CPU the current memory of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return float(psutil.Process().memory_info().rss) / 2**20


class _MetricsBuffer:
    """Metrics still on the device; read in blocks, so that a step does not synchronize a GPU."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.pending: list[tuple[int, int, Tensor, Metrics]] = []

    def add(self, step: int, epoch: int, values: Tensor, rates: Metrics) -> Iterator[MetricsEvent]:
        self.pending.append((step, epoch, values, rates))
        if len(self.pending) >= self.size:
            yield from self.flush()

    def flush(self) -> Iterator[MetricsEvent]:
        if not self.pending:
            return
        numbers = torch.stack([values for _, _, values, _ in self.pending]).tolist()
        for (step, epoch, _, rates), (loss, accuracy, norm) in zip(
            self.pending, numbers, strict=True
        ):
            metrics = {
                "train/loss": loss,
                "train/accuracy": accuracy,
                "clip/grad_norm": norm,
                **rates,
            }
            yield MetricsEvent(step, epoch, metrics)
        self.pending.clear()
