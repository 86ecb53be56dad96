"""The loop: plain PyTorch over the parts of a Run, as a generator of plain numbers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor

from recipe.components.data import readable, skips, unread
from recipe.nn import rng, sharded
from recipe.nn.placement import placed
from recipe.training import step as training_step
from recipe.training.evaluation import Metrics
from recipe.training.lr_schedule import learning_rates
from recipe.training.nonfinite import NonFinite
from recipe.training.run import Best, Run, order
from recipe.training.validation import named, validated


@dataclass(frozen=True)
class Point:
    """Numbers as they stand after a step."""

    step: int
    epoch: int
    """Counted from 1."""
    metrics: Metrics
    ends_epoch: bool = False
    ends_run: bool = False
    """No other will follow."""
    improved: bool = False
    """`Run.best` is new."""


def train(run: Run) -> Iterator[Point]:
    """Trains from where the run is to the end; yields a Point after each step, and one after each
    epoch's evaluation.

    Between two Points the caller may look at anything in the run; it is as it stands after
    `run.at.step` steps, which is ahead of a Point whose numbers were read together with later ones.
    """
    while not run.over:
        epoch = run.at.epoch
        run.frozen.unfreeze(run.optimizer, run.groups, epoch)
        run.model.train()
        if run.at.batch == 0:
            run.ranks.seed_dropout(run.seed, epoch)
            run.at.augmentation = rng.generator(run.seed, "augmentation", epoch)
            run.at.began = time.perf_counter()
        elif run.at.drawn is not None:
            rng.set_global(run.at.drawn)
        run.at.drawn = None
        yield from _train_epoch(run, epoch)
        yield _end_epoch(run, epoch)


def _train_epoch(run: Run, epoch: int) -> Iterator[Point]:
    """The batches that are left of an epoch."""
    at = run.at
    block = _Block(1 if run.device.type == "cpu" else 50)
    left = list(order(run, epoch))[at.batch :]
    feed = run.prefix.training(run, epoch, order(run, epoch))
    model = run.ranks.wrapped(feed.model)
    read = feed.split.batches(map(run.ranks.read, left))
    for batch, (inputs, targets) in zip(left, read, strict=True):
        at.rates = learning_rates(run.optimizer)
        rates = {f"lr/{key}": lr for key, lr in at.rates.items()}
        inputs = placed(inputs, run.device)
        targets = targets.to(run.device, non_blocking=True)
        try:
            done = training_step.take(run, feed, model, inputs, targets, len(batch))
        except NonFinite as found:
            yield from block.flush()
            samples = readable(run.data.train, batch.tolist())
            called = named(run.data.train, samples)
            raise found.in_training(at.step + 1, epoch + 1, at.batch + 1, samples, called) from None
        if done.left_out:
            at.left_out.add(at.batch)
        at.step, at.batch = at.step + 1, at.batch + 1
        at.bitten = done.bit + at.bitten
        if done.stepped:
            run.average.after_step(at.step / run.steps)
        numbers = torch.stack([done.loss, done.accuracy, done.norm])
        yield from block.add(at.step, epoch + 1, numbers, rates)
    yield from block.flush()


def _end_epoch(run: Run, epoch: int) -> Point:
    """Averages and evaluates; the run is then at the start of the next epoch."""
    at = run.at
    trained = time.perf_counter() - at.began
    left_out = at.left_out
    run.ranks.align(run.model)
    run.average.after_epoch((epoch + 1) / run.epochs, lambda: _inputs(run, epoch, left_out))
    metrics = validated(run, epoch + 1)
    run.schedule.after_epoch(metrics)
    improved = _keep_best(run, epoch + 1, metrics["val/accuracy"])
    metrics |= {
        "best/val_accuracy": run.best.accuracy,
        "best/epoch": run.best.epoch,
        "clip/hit_rate": float(at.bitten) / at.step,
        "time/epoch_s": time.perf_counter() - at.began,
        "time/samples_per_s": len(run.data.train) / trained,
        "memory/peak_mb": _memory(run.device),
    }
    if run.nonfinite.policy == "skip":
        metrics["nonfinite/skipped"] = run.nonfinite.skipped
    if skips(run.data.train):
        metrics["data/skipped"] = len(unread(run.data.train)) + len(unread(run.data.val))
    at.epoch, at.batch, at.left_out = epoch + 1, 0, set()
    at.accuracies.append(metrics["val/accuracy"])
    return Point(at.step, epoch + 1, metrics, ends_epoch=True, ends_run=run.over, improved=improved)


def _inputs(run: Run, epoch: int, left_out: set[int]) -> Iterator[Tensor]:
    """The epoch's batches once more, without those of these numbers."""
    used = (batch for n, batch in enumerate(order(run, epoch)) if n not in left_out)
    for inputs, _ in run.data.train.batches(used):
        yield placed(inputs, run.device)


def _keep_best(run: Run, epoch: int, accuracy: float) -> bool:
    if accuracy <= run.best.accuracy:
        return False
    state = {k: sharded.whole(v.detach()) for k, v in run.average.model.state_dict().items()}
    run.best = Best(accuracy, epoch, {k: v.to("cpu", copy=True) for k, v in state.items()})
    return True


def _memory(device: torch.device) -> float:
    """Megabytes: the most torch has held on a GPU; on the CPU what the process holds now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return float(psutil.Process().memory_info().rss) / 2**20


class _Block:
    """Steps whose numbers are still on the device: read together, so a GPU is never waited for."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.waiting: list[tuple[int, int, Tensor, Metrics]] = []

    def add(self, step: int, epoch: int, values: Tensor, rates: Metrics) -> Iterator[Point]:
        self.waiting.append((step, epoch, values, rates))
        if len(self.waiting) >= self.size:
            yield from self.flush()

    def flush(self) -> Iterator[Point]:
        if not self.waiting:
            return
        numbers = torch.stack([values for _, _, values, _ in self.waiting]).tolist()
        for (step, epoch, _, rates), (loss, accuracy, norm) in zip(
            self.waiting, numbers, strict=True
        ):
            metrics = {
                "train/loss": loss,
                "train/accuracy": accuracy,
                "clip/grad_norm": norm,
                **rates,
            }
            yield Point(step, epoch, metrics)
        self.waiting.clear()
