"""The loop: plain PyTorch over the parts of a Run, as a generator of plain numbers.

The order of a step, once and for all: augment -> forward (autocast) -> loss -> backward, for each
part of the batch -> sharpness -> unscale -> clip -> optimizer (only with finite numbers) ->
scheduler and average (only if the optimizer stepped).
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import psutil
import torch
from torch import Tensor, nn

from recipe import streams
from recipe.average import Average
from recipe.data import Batch, Data, Split, readable, unread
from recipe.data.placing import placed
from recipe.distributed import shards
from recipe.distributed.ranks import Ranks
from recipe.evaluate import Metrics, evaluate, preserved
from recipe.frozen import Frozen
from recipe.nonfinite import Guard, NonFinite
from recipe.prefix.feed import Feed, whole
from recipe.prefix.prefix import Prefix
from recipe.pretrained import Start
from recipe.schedule import Rates, Schedule, learning_rates
from recipe.trace import Found, Step, trace_evaluation, trace_step, unsound
from recipe.wording import printable

UNTRACED = "where is not looked for, as a process can't call this model by itself"


@dataclass
class Run:
    """Everything that trains, built; names of parameters are those of the plain model."""

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
    augmentation: torch.Generator = field(default_factory=torch.Generator)
    """Of the epoch that `batch` is in."""
    began: float = 0.0
    """When this epoch did, on the clock of time.perf_counter."""
    drawn: streams.States | None = None
    """Where the global streams go on; None: where they are."""


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
            run.at.augmentation = streams.generator(run.seed, "augmentation", epoch)
            run.at.began = time.perf_counter()
        elif run.at.drawn is not None:
            streams.set_global(run.at.drawn)
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
        rates = {f"lr/{key}": lr for key, lr in learning_rates(run.optimizer).items()}
        inputs = placed(inputs, run.device)
        targets = targets.to(run.device, non_blocking=True)
        try:
            done = _step(run, feed, model, inputs, targets, len(batch))
        except NonFinite as found:
            yield from block.flush()
            samples = readable(run.data.train, batch.tolist())
            names = _names(run.data.train, samples)
            raise found.in_training(at.step + 1, epoch + 1, at.batch + 1, samples, names) from None
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
    metrics = _validated(run, epoch + 1)
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
    if getattr(run.data.train, "on_bad_file", "stop") == "skip":
        metrics["data/skipped"] = len(unread(run.data.train)) + len(unread(run.data.val))
    at.epoch, at.batch, at.left_out = epoch + 1, 0, set()
    at.accuracies.append(metrics["val/accuracy"])
    return Point(at.step, epoch + 1, metrics, ends_epoch=True, ends_run=run.over, improved=improved)


class _Done(NamedTuple):
    """A step; tensors of shape ()."""

    loss: Tensor
    accuracy: Tensor
    norm: Tensor
    bit: Tensor
    """Whether the clip bit."""
    stepped: bool
    """The optimizer did."""
    left_out: bool


def _step(
    run: Run, feed: Feed, model: nn.Module, inputs: Tensor, targets: Tensor, of: int
) -> _Done:
    """One optimizer step, over a batch of `of` samples or this process's share of it. Raises
    NonFinite before it, if the run is to stop at that."""
    ranks, left_out, stepped = run.ranks, False, False
    run.nonfinite.before_step(run.model, run.device)
    raw, (inputs, goal) = inputs, run.augment(inputs, targets, run.at.augmentation)
    raw, inputs, goal = (ranks.share(each, of) for each in (raw, inputs, goal))
    loss, output = _gradients(run, model, inputs, goal, of)
    run.sharpness(with_gradients(run.optimizer), lambda: _again(run, model, inputs, goal, of))
    run.scaler.unscale_(run.optimizer)
    norm, bit = run.clip(with_gradients(run.optimizer))
    labels = goal if goal.ndim == 1 else goal.argmax(1)
    correct = (output.argmax(1) == labels).float().mean()
    mean_loss, accuracy = ranks.mean(torch.stack([loss.float(), correct]), of)
    if run.nonfinite.refuses(mean_loss, norm, run.scaler):
        step = Step(run.model, run.loss, run.autocast, feed.raw(raw), feed.raw(inputs), goal)
        trace = functools.partial(_traced, run, step, of)
        run.nonfinite.leave_out(mean_loss, norm, run.scaler, trace)
        left_out = True
    else:
        scale = run.scaler.get_scale()
        run.scaler.step(run.optimizer)
        run.scaler.update()
        stepped = run.scaler.get_scale() >= scale  # it shrinks exactly when the step was skipped
    if stepped:
        run.schedule.after_step()
    run.optimizer.zero_grad(set_to_none=True)
    return _Done(mean_loss, accuracy, norm.detach().float(), bit, stepped, left_out)


def _gradients(
    run: Run, model: nn.Module, inputs: Tensor, goal: Tensor, of: int
) -> tuple[Tensor, Tensor]:
    """Adds the gradients of a batch of `of` samples, or of this process's share of it, computed in
    `run.accumulate` parts, each weighted by its samples; returns the loss of what is given, shape
    (), and the output, (batch, classes), detached."""
    count, losses, outputs = min(run.accumulate, *run.ranks.shares(of)), [], []
    parts = zip(inputs.tensor_split(count), goal.tensor_split(count), strict=True)
    for part, target in parts:
        with run.autocast():
            output = model(part)
            loss = run.loss(output, target) * (len(part) / len(inputs))
        run.scaler.scale(run.ranks.weighed(loss, of)).backward()
        losses.append(loss.detach())
        outputs.append(output.detach())
    return torch.stack(losses).sum(), torch.cat(outputs)


def _again(run: Run, model: nn.Module, inputs: Tensor, goal: Tensor, of: int) -> None:
    """The gradients of the same batch anew, with the weights as they are now: the same dropout
    masks, and neither buffers nor random streams are moved a second time."""
    run.optimizer.zero_grad(set_to_none=True)
    with preserved(run.model, buffers=True):
        run.nonfinite.rewind()
        _gradients(run, model, inputs, goal, of)


def _traced(run: Run, step: Step, of: int, rewind: Callable[[], None]) -> Found:
    found = trace_step(step, rewind) if run.ranks.alone else Found(UNTRACED)
    return run.ranks.culprit(found, of)


def with_gradients(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def order(run: Run, epoch: int) -> Iterator[Tensor]:
    """The epoch's batches of indices: a pure function of the seed and the epoch."""
    stream = streams.generator(run.seed, "order", epoch)
    yield from run.sampler(run.data.train.targets, stream).split(run.batch_size)


def _inputs(run: Run, epoch: int, left_out: set[int]) -> Iterator[Tensor]:
    """The epoch's batches once more, without those of these numbers."""
    used = (batch for n, batch in enumerate(order(run, epoch)) if n not in left_out)
    for inputs, _ in run.data.train.batches(used):
        yield placed(inputs, run.device)


def _validated(run: Run, epoch: int) -> Metrics:
    """Of what will be kept; and where that is an average, of the weights as they were trained."""
    kept = _validate(run, run.average.model, run.prefix.evaluation(run, epoch - 1), epoch)
    metrics = {f"val/{key}": value for key, value in kept.items()}
    if run.average.model is not run.model:
        raw = _validate(run, run.model, whole(run.model, run.data.val), epoch)
        metrics |= {f"val/raw_{key}": value for key, value in raw.items()}
    return metrics


def _validate(run: Run, model: nn.Module, feed: Feed, epoch: int) -> Metrics:
    """Of a model by way of `feed`. Raises NonFinite if the loss isn't finite, or the weights that
    it is of."""
    run.ranks.align(model)
    metrics = evaluate(
        feed.model, feed.split, run.loss, look=run.evaluation,
        batch_size=run.eval_batch_size, device=run.device, autocast=run.autocast,
        ranks=run.ranks,
    )  # fmt: skip
    what = f"val/loss is {metrics['loss']:g}"
    if math.isfinite(metrics["loss"]):
        found = run.ranks.first_of(unsound(model))
        if found is None:
            return metrics
        what += ", but the weights are not finite"
    else:
        found = _traced_evaluation(run, model)
    samples: list[int] = []
    if found.batch is not None:
        samples = readable(run.data.val, list(_val_order(run))[found.batch].tolist())
    batch = 0 if found.batch is None else found.batch + 1
    names = _names(run.data.val, samples)
    raise NonFinite(what, found).in_evaluation(run.at.step, epoch, batch, samples, names)


def _traced_evaluation(run: Run, model: nn.Module) -> Found:
    if not run.ranks.alone:
        return Found(UNTRACED)
    return trace_evaluation(model, run.loss, run.autocast, _val_batches(run))


def _val_order(run: Run) -> Iterator[Tensor]:
    yield from torch.arange(len(run.data.val)).split(run.eval_batch_size)


def _val_batches(run: Run) -> Iterator[Batch]:
    for inputs, targets in run.data.val.batches(_val_order(run)):
        yield placed(inputs, run.device), targets.to(run.device)


def _names(split: Split, samples: list[int]) -> list[str]:
    """What the samples are called, in a split that reads them from files."""
    files = getattr(split, "files", None)
    return [printable(files[index]) for index in samples] if files else []


def _keep_best(run: Run, epoch: int, accuracy: float) -> bool:
    if accuracy <= run.best.accuracy:
        return False
    state = {k: shards.whole(v.detach()) for k, v in run.average.model.state_dict().items()}
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
