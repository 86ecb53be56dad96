"""A run's evaluation after an epoch, and where a loss that isn't finite began in it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from recipe.components.data import Batch, Split, readable
from recipe.formatting import printable
from recipe.nn.locate_nonfinite import UNTRACED, Found, trace_evaluation, unsound
from recipe.nn.placement import placed
from recipe.training.evaluation import Metrics, evaluate
from recipe.training.frozen_cache.inputs import Feed, whole
from recipe.training.nonfinite import NonFinite
from recipe.training.run import Run


def validated(run: Run, epoch: int) -> Metrics:
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
    called = named(run.data.val, samples)
    raise NonFinite(what, found).in_evaluation(run.at.step, epoch, batch, samples, called)


def _traced_evaluation(run: Run, model: nn.Module) -> Found:
    if not run.ranks.alone:
        return Found(UNTRACED)
    return trace_evaluation(model, run.loss, run.autocast, _val_batches(run))


def _val_order(run: Run) -> Iterator[Tensor]:
    yield from torch.arange(len(run.data.val)).split(run.eval_batch_size)


def _val_batches(run: Run) -> Iterator[Batch]:
    for inputs, targets in run.data.val.batches(_val_order(run)):
        yield placed(inputs, run.device), targets.to(run.device)


def named(split: Split, samples: list[int]) -> list[str]:
    """What the samples are called, in a split that reads them from files."""
    files = getattr(split, "files", None)
    return [printable(files[index]) for index in samples] if files else []
