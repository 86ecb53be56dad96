"""The evaluation of a run after an epoch, and the origin of a loss that is not finite."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from recipe.components.data import Batch, Split, readable_indices
from recipe.formatting import escape_unprintable
from recipe.nn.locate_nonfinite import (
    NOT_LOCATED_REASON,
    NonFiniteLocation,
    find_nonfinite_weight,
    locate_in_evaluation,
)
from recipe.nn.placement import to_device
from recipe.training.evaluation import Metrics, evaluate
from recipe.training.frozen_cache.inputs import ModelInputs, uncached_inputs
from recipe.training.nonfinite import NonFiniteError
from recipe.training.run import Run


def validate(run: Run, epoch: int) -> Metrics:
    """Metrics of the model that is saved; if that is an average, also of the trained weights."""
    kept = _evaluate_model(
        run, run.average.model, run.frozen_cache.evaluation_inputs(run, epoch - 1), epoch
    )
    metrics = {f"val/{key}": value for key, value in kept.items()}
    if run.average.model is not run.model:
        raw = _evaluate_model(run, run.model, uncached_inputs(run.model, run.data.val), epoch)
        metrics |= {f"val/raw_{key}": value for key, value in raw.items()}
    return metrics


def _evaluate_model(run: Run, model: nn.Module, model_inputs: ModelInputs, epoch: int) -> Metrics:
    """Raises NonFiniteError if the loss or the weights of the model are not finite."""
    run.collectives.sync_buffers(model)
    metrics = evaluate(
        model_inputs.model, model_inputs.split, run.loss, forward=run.evaluation,
        batch_size=run.eval_batch_size, device=run.device, autocast=run.autocast,
        collectives=run.collectives,
    )  # fmt: skip
    what = f"val/loss is {metrics['loss']:g}"
    if math.isfinite(metrics["loss"]):
        found = run.collectives.first_not_none(find_nonfinite_weight(model))
        if found is None:
            return metrics
        what += ", but the weights are not finite"
    else:
        found = _locate_nonfinite(run, model)
    samples: list[int] = []
    if found.batch is not None:
        samples = readable_indices(
            run.data.val, list(_val_batch_indices(run))[found.batch].tolist()
        )
    batch = 0 if found.batch is None else found.batch + 1
    called = file_names(run.data.val, samples)
    raise NonFiniteError(what, found).with_validation_location(
        run.position.step, epoch, batch, samples, called
    )


def _locate_nonfinite(run: Run, model: nn.Module) -> NonFiniteLocation:
    if not run.collectives.has_local_forward:
        return NonFiniteLocation(NOT_LOCATED_REASON)
    return locate_in_evaluation(model, run.loss, run.autocast, _val_batches(run))


def _val_batch_indices(run: Run) -> Iterator[Tensor]:
    yield from torch.arange(len(run.data.val)).split(run.eval_batch_size)


def _val_batches(run: Run) -> Iterator[Batch]:
    for inputs, targets in run.data.val.batches(_val_batch_indices(run)):
        yield to_device(inputs, run.device), targets.to(run.device)


def file_names(split: Split, samples: list[int]) -> list[str]:
    """The files of samples, if they are read from files."""
    names = split.file_names
    return [escape_unprintable(names[index]) for index in samples] if names else []
