"""Checks before the first step: the range of all targets, and a batch through all components.

Finds what would otherwise fail within a step, or not at all because shapes broadcast.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from recipe.components.contract import PlannedRun
from recipe.components.data import Data, first_samples_batch
from recipe.errors import (
    DEBUG_HINT,
    Problems,
    RecipeError,
    SpecError,
    describe_exception,
    first_line,
)
from recipe.nn import rng
from recipe.nn.model_state import preserve_model_state


def check_targets(data: Data) -> None:
    """Raises ValueError for a class index outside [0, classes)."""
    for split, name in ((data.train, "training"), (data.val, "validation")):
        low, high = int(split.targets.min()), int(split.targets.max())
        if low < 0 or high >= len(data.classes):
            raise ValueError(
                f"data: a {name} target is {low if low < 0 else high}, "
                f"outside [0, {len(data.classes)})"
            )


def check_batch(planned: PlannedRun) -> Problems:
    """Problems of a few samples in augmentation, model, evaluation and loss."""
    problems = Problems()
    with (
        preserve_model_state(planned.model, buffers=True),
        torch.inference_mode(),
        planned.autocast(),
    ):
        inputs, targets, plain = _augment_samples(planned, problems)
        if not problems:
            with problems.collect_component_errors(planned.choice("model")):
                output = _checked_forward(planned, inputs, training=False)
                _checked_forward(planned, inputs[: _trial_batch_size(planned)], training=True)
        if not problems:
            with problems.collect_component_errors(planned.choice("evaluation")):
                _check_evaluation(planned, inputs, output)
        if not problems:
            with problems.collect_component_errors(planned.choice("loss")):
                _check_loss(planned, output, targets)
                _check_loss(planned, output, plain)  # validation isn't augmented
                _check_gradient(planned, output, targets)
                _check_loss_is_mean(planned, output, targets)
    with problems.collect_component_errors(planned.choice("stop")):
        planned.stop([0.5])
    return problems


def _augment_samples(planned: PlannedRun, problems: Problems) -> tuple[Tensor, Tensor, Tensor]:
    """Augmented inputs and targets of a few training samples, and their class indices."""
    train, device = planned.data.train, planned.device
    # two, or with two classes three, as class indices would broadcast over a square of outputs
    count = 3 if len(planned.data.classes) == 2 else 2
    with problems.collect_component_errors("data"):  # samples that can't be read
        inputs, targets = first_samples_batch(train, count)
        planned.data.val.first_readable_indices(1)
    if problems:
        return torch.empty(0), torch.empty(0), torch.empty(0)
    inputs, targets = inputs.to(device), targets.to(device)
    with problems.collect_component_errors(planned.choice("augment")):
        stream = rng.make_generator(planned.spec.seed, "augmentation")
        augmented, mixed = planned.augment(inputs, targets, stream)
        gives = planned.settings("augment").get("gives", "indices")
        form = "probabilities" if mixed.is_floating_point() else "indices"
        if form != gives:
            raise ValueError(f"augment.gives is {gives}, but its targets are {form}; correct it")
        return augmented, mixed, targets
    return inputs, targets, targets


def _trial_batch_size(planned: PlannedRun) -> int:
    """One if a process or a micro-batch will have a single sample, which BatchNorm may refuse;
    else two."""
    size: int = planned.spec.data["batch_size"]
    last = len(planned.data.train) % size or size
    shares = {*planned.collectives.shard_sizes(size), *planned.collectives.shard_sizes(last)}
    parts = {share // min(planned.spec.accumulate, *shares) for share in shares}
    return 1 if 1 in parts else 2


def _checked_forward(planned: PlannedRun, inputs: Tensor, *, training: bool) -> Tensor:
    """Raises ValueError unless the model's output is (batch, classes) and finite."""
    planned.model.train(training)
    mode = "training" if training else "evaluation"
    classes = len(planned.data.classes)
    try:
        output: Any = _forward(planned, inputs, gradient=training)
    except ValueError as error:
        if training and len(inputs) == 1:
            if planned.spec.accumulate > 1:
                raise SpecError(
                    f"accumulate is {planned.spec.accumulate}, which leaves one sample for a part "
                    f"of a batch, and {planned.choice('model')} can't learn from one: {error}; "
                    "use a smaller one, or another data.batch_size"
                ) from error
            raise SpecError(
                f"data.batch_size is {planned.spec.data['batch_size']}, which leaves one sample of "
                f"{len(planned.data.train)} for {_describe_smallest_batch(planned)}, and "
                f"{planned.choice('model')} can't learn from one: {error}; use another"
            ) from error
        raise
    except RecipeError:
        raise
    except Exception as error:
        raise ValueError(
            f"can't take inputs of shape {tuple(inputs.shape[1:])}: {describe_exception(error)}; "
            f"the data's channels and size must be those the model is made for; "
            f"{_suggest_models(planned, error)} ({DEBUG_HINT})"
        ) from error
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if shape != (len(inputs), classes):
        way_out = f"it must give {(len(inputs), classes)}"
        if not isinstance(output, Tensor):
            way_out += (
                "; make it without auxiliary outputs (often a setting, such as aux_logits=false), "
                "or write a model of your own around it that returns the logits alone"
            )
        raise ValueError(
            f"gives {shape} for {len(inputs)} inputs in {mode}, but the data have {classes} "
            f"classes; {way_out}"
        )
    if not training and not bool(output.isfinite().all()):
        where = "the inputs hold" if not bool(inputs.isfinite().all()) else "its output holds"
        raise ValueError(
            f"{where} NaN or infinity before the first step; check the data, model.weights and "
            "the model's settings"
        )
    assert isinstance(output, Tensor)
    if training and planned.collectives.has_local_forward and not output.requires_grad:
        raise ValueError(
            "gives an output that has no gradient in training, so nothing would be learned; check "
            "for torch.no_grad or detach in it"
        )
    return output


def _suggest_models(planned: PlannedRun, error: Exception) -> str:
    size = "a larger data.size" if "too small" in first_line(error) else "another data.size"
    models = [name for name in ("mlp", "resnet") if name != planned.spec.options["model"]]
    ways = [size] if "size" in planned.spec.data else []
    return f"use {' or '.join([*ways, *(f'model={name}' for name in models)])}"


def _forward(planned: PlannedRun, inputs: Tensor, *, gradient: bool) -> Any:
    """The output of the model; with `gradient` recorded for a backward pass, unless several
    processes share the model, as DDP requires that backward follows."""
    if not (gradient and planned.collectives.has_local_forward):
        return planned.model(inputs)
    with torch.inference_mode(False), torch.enable_grad():
        return planned.model(inputs.clone())


def _describe_smallest_batch(planned: PlannedRun) -> str:
    if planned.collectives.world_size == 1:
        return "the last batch of an epoch"
    return f"one of {planned.collectives.world_size} processes in some batch of an epoch"


def _check_evaluation(planned: PlannedRun, inputs: Tensor, output: Tensor) -> None:
    planned.model.eval()
    result: Any = planned.evaluation(planned.model, inputs)
    shape = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
    if shape != tuple(output.shape):
        raise ValueError(f"gives {shape}, where the model gives {tuple(output.shape)}")


def _check_loss_is_mean(planned: PlannedRun, output: Tensor, targets: Tensor) -> None:
    """Raises SpecError if a loss is not the mean over its samples, which accumulation requires."""
    if planned.spec.accumulate == 1:
        return
    whole, parts = planned.loss(output, targets).item(), 0.0
    for part, target in zip(output, targets, strict=True):
        parts += planned.loss(part[None], target[None]).item() / len(output)
    if abs(whole - parts) > 1e-3 * max(1.0, abs(parts)):
        raise SpecError(
            f"accumulate is {planned.spec.accumulate}, but {planned.choice('loss')} isn't the mean "
            f"over a batch's samples ({whole:g} for {len(output)} together, {parts:g} one by one), "
            "so the parts of a batch wouldn't add up to it; use accumulate=1"
        )


def _check_gradient(planned: PlannedRun, output: Tensor, targets: Tensor) -> None:
    """Raises ValueError if a loss has no gradient with respect to the model's output."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = output.clone().requires_grad_()
        value = planned.loss(leaf, targets.clone())
        if not value.requires_grad:
            raise ValueError("gives no gradient, so nothing would be learned; use another loss")
        torch.autograd.grad(value, leaf)


def _check_loss(planned: PlannedRun, output: Tensor, targets: Tensor) -> None:
    """Raises ValueError if shapes do not fit or would broadcast."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Using a target size")
        try:
            value = planned.loss(output, targets)
        except (RuntimeError, TypeError, UserWarning) as error:
            broadcast = "they would broadcast to a wrong loss"
            reason = first_line(error) or type(error).__name__
            why = broadcast if isinstance(error, UserWarning) else reason
            raise ValueError(
                f"can't take outputs {tuple(output.shape)} with targets {tuple(targets.shape)}: "
                f"{why.rstrip('.')}; {_suggest_losses(planned)}"
            ) from error
    if not isinstance(value, Tensor) or value.shape != ():
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"gives {shape}, not a tensor of shape (); average over the batch")


def _suggest_losses(planned: PlannedRun) -> str:
    chosen = planned.spec.options["loss"]
    names = [name for name in ("cross_entropy", "mse_one_hot") if name != chosen]
    use = f"use {' or '.join(f'loss={name}' for name in names)}"
    if planned.spec.has_custom_target("loss"):
        return f"leave loss._target_ out, or {use}"
    return use
