"""Locates the first value that is not finite, by repeating the step that failed.

Other steps are not slowed down.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from recipe.nn.model_state import preserve_model_state
from recipe.nn.sharded import get_local_shard

STEP_SIZE_ADVICE = "lower the learning rate or clip the gradients"
LOSS_ADVICE = "check the loss, and its inputs"
SAMPLE_ADVICE = "mend or remove them"

LossFn = Callable[[Tensor, Tensor], Tensor]
Autocast = Callable[[], AbstractContextManager[Any]]
NamedTensors = list[tuple[str, Tensor]]
Batch = tuple[Tensor, Tensor]

NOT_LOCATED_REASON = "it is not located, as one process alone can't call this model"


@dataclass(frozen=True)
class NonFiniteLocation:
    description: str
    advice: str = STEP_SIZE_ADVICE
    layer: str | None = None
    """The module's name, empty for the model itself; None if it is in no module."""
    sample_rows: tuple[int, ...] = ()
    """Rows of the batch whose values are not finite there."""
    batch: int | None = None
    """Index of the batch in an evaluation."""


@dataclass(frozen=True)
class StepInputs:
    """The inputs of a training step."""

    model: nn.Module
    loss: LossFn
    autocast: Autocast
    raw_inputs: Tensor
    """Before augmentation."""
    inputs: Tensor
    """After augmentation."""
    target: Tensor


def locate_in_step(step: StepInputs, restore_rng: Callable[[], None]) -> NonFiniteLocation:
    """Repeats the step; `restore_rng` restores torch's random streams, so that dropout masks are
    the same.

    Weights, gradients, buffers and random streams are unchanged afterwards.
    """

    def search() -> NonFiniteLocation:
        with preserve_model_state(step.model, buffers=True):
            restore_rng()
            return (
                _check_batch(step)
                or _check_weights(step.model.named_parameters())
                or _check_forward_backward(
                    step.model, step.loss, step.autocast, step.inputs, step.target
                )
            )

    return _run_search(search)


def locate_in_evaluation(
    model: nn.Module, loss: LossFn, autocast: Autocast, batches: Iterable[Batch]
) -> NonFiniteLocation:
    """Repeats an evaluation over batches on the device."""

    def search() -> NonFiniteLocation:
        if found := find_nonfinite_weight(model):
            return found
        with preserve_model_state(model), torch.no_grad():
            model.eval()
            for number, (inputs, target) in enumerate(batches):
                if found := _check_inputs(inputs) or _check_forward(
                    model, loss, autocast, inputs, target
                ):
                    return replace(found, batch=number)
        return NonFiniteLocation("the loss of every batch is finite, but their sum overflows")

    return _run_search(search)


def _run_search(search: Callable[[], NonFiniteLocation]) -> NonFiniteLocation:
    """An error of the repetition must not hide that of the run."""
    try:
        return search()
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "")
        return NonFiniteLocation(
            f"it is not located, as the repetition raised {type(error).__name__}: {reason}"
        )


def find_nonfinite_weight(model: nn.Module) -> NonFiniteLocation | None:
    """The first weight or buffer that is not finite. Buffers other than BatchNorm's statistics may
    hold infinity, as attention masks do."""
    return _check_weights(chain(model.named_parameters(), model.named_buffers()))


def is_finite(value: Tensor) -> bool:
    """Whether all values are finite; allocates no mask."""
    return not _get_nonfinite_kind(value)


def _get_nonfinite_kind(value: Tensor) -> str:
    """`nan` or `inf`; empty if all values are finite."""
    value = torch.view_as_real(value) if value.is_complex() else value
    if not value.is_floating_point() or not value.numel():
        return ""
    if value.element_size() < 2:
        value = value.float()  # torch can't compare 8-bit floats
    low, high = (end.item() for end in value.detach().aminmax())
    if math.isnan(low) or math.isnan(high):
        return "nan"
    return "inf" if math.isinf(low) or math.isinf(high) else ""


def _check_batch(step: StepInputs) -> NonFiniteLocation | None:
    if found := _check_inputs(step.raw_inputs):
        return found
    advice = "check augment"
    if rows := _find_nonfinite_rows(step.inputs, len(step.raw_inputs)):
        return NonFiniteLocation(
            "augmentation returned inputs that are not finite", advice, sample_rows=rows
        )
    if not is_finite(step.target):
        return NonFiniteLocation("augmentation returned targets that are not finite", advice)
    return None


def _check_inputs(inputs: Tensor) -> NonFiniteLocation | None:
    if rows := _find_nonfinite_rows(inputs, len(inputs)):
        return NonFiniteLocation(
            "the inputs themselves are not finite", SAMPLE_ADVICE, sample_rows=rows
        )
    return None


def _check_weights(named: Iterable[tuple[str, Tensor]]) -> NonFiniteLocation | None:
    for name, value in named:
        kind = _get_nonfinite_kind(get_local_shard(value))
        moved = value.requires_grad or name.endswith(("running_mean", "running_var"))
        if kind == "nan" or (kind and moved):
            layer = name.rpartition(".")[0]
            return NonFiniteLocation(f"{name} itself holds {kind}", layer=layer)
    return None


def _find_nonfinite_rows(value: Tensor, count: int) -> tuple[int, ...]:
    """Rows with a value that is not finite, if the first dimension is that of the batch."""
    if value.ndim == 0 or len(value) != count or is_finite(value):
        return ()
    low, high = value.detach().reshape(count, -1).aminmax(dim=1)
    return tuple((~(low.isfinite() & high.isfinite())).nonzero().flatten().tolist())


def _check_forward_backward(
    model: nn.Module, loss: LossFn, autocast: Autocast, inputs: Tensor, target: Tensor
) -> NonFiniteLocation:
    with torch.enable_grad(), _register_hooks(model, len(inputs)) as seen:
        with autocast():
            output = model(inputs)
            value = loss(output, target)
        if seen.forward_location or not is_finite(value):
            return seen.forward_location or _locate_in_loss()
        named: NamedTensors = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        gradients = torch.autograd.grad(value, [p for _, p in named], allow_unused=True)
    got = [(name, g) for (name, _), g in zip(named, gradients, strict=True) if g is not None]
    return seen.backward_location or _check_gradients(got, seen.finish_order)


def _check_forward(
    model: nn.Module, loss: LossFn, autocast: Autocast, inputs: Tensor, target: Tensor
) -> NonFiniteLocation | None:
    with _register_hooks(model, len(inputs)) as seen, autocast():
        value = loss(model(inputs), target)
    return seen.forward_location or (None if is_finite(value) else _locate_in_loss())


def _locate_in_loss() -> NonFiniteLocation:
    return NonFiniteLocation(
        "every output of the model is finite, so it is the loss itself", LOSS_ADVICE
    )


def _check_gradients(gradients: NamedTensors, order: Mapping[str, int]) -> NonFiniteLocation:
    """Names the parameter whose layer ran last, as the backward pass begins there."""
    bad = [name for name, gradient in gradients if not is_finite(gradient)]
    if bad:
        name = max(bad, key=lambda name: order.get(name.rpartition(".")[0], 0))
        return NonFiniteLocation(
            f"first in the gradient of {name} ({len(bad)} of {len(gradients)} parameters have one "
            "that is not finite)",
            layer=name.rpartition(".")[0],
        )
    if not is_finite(nn.utils.get_total_norm([gradient for _, gradient in gradients])):
        norms = {
            name: torch.linalg.vector_norm(gradient, dtype=torch.float64).item()
            for name, gradient in gradients
        }
        name = max(norms, key=lambda name: norms[name])
        return NonFiniteLocation(
            "every gradient is finite, but too large for their norm; the largest is that of "
            f"{name} ({norms[name]:.3g})",
            layer=name.rpartition(".")[0],
        )
    return NonFiniteLocation(
        "the repeated step was finite, so it is not deterministic, or the clip is the cause"
    )


@dataclass
class _NonFiniteHooks:
    """Hooks on the outputs of all modules in a forward and backward pass."""

    batch_size: int
    forward_location: NonFiniteLocation | None = None
    backward_location: NonFiniteLocation | None = None
    finish_order: dict[str, int] = field(default_factory=dict)
    """The position of each module's last call."""
    finished_count: int = 0
    _last_finite: tuple[str, str] | None = None
    """Name and label of the module at whose output the gradient was last finite."""
    _last_tensor: Tensor | None = None

    def check_output(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        """A forward hook: modules finish before those that contain them."""
        self.finished_count += 1
        self.finish_order[name] = self.finished_count
        called = (
            f"{name} ({type(module).__name__})" if name else f"the model ({type(module).__name__})"
        )
        for tensor in _iter_tensors(output):
            if not self.forward_location and (kind := _get_nonfinite_kind(tensor)):
                rows = _find_nonfinite_rows(tensor, self.batch_size)
                self.forward_location = NonFiniteLocation(
                    f"first in the output of {called}: {kind}", STEP_SIZE_ADVICE, name, rows
                )
            if tensor.requires_grad:
                tensor.register_hook(functools.partial(self.check_gradient, name, called, tensor))

    def check_gradient(self, name: str, called: str, tensor: Tensor, gradient: Tensor) -> None:
        if self.backward_location:
            return
        if _get_nonfinite_kind(gradient):
            rows = _find_nonfinite_rows(gradient, self.batch_size)
            if self._last_finite:
                layer, last = self._last_finite
                where = f"between the output of {last} and that of {called}"
                self.backward_location = NonFiniteLocation(
                    f"first in the gradient, {where}", STEP_SIZE_ADVICE, layer, rows
                )
            else:
                where = "the loss is finite, but not its gradient at the model's output"
                self.backward_location = NonFiniteLocation(where, LOSS_ADVICE, None, rows)
        elif (
            tensor is not self._last_tensor
        ):  # else it is the output of the layer around that one as well
            self._last_finite, self._last_tensor = (name, called), tensor


@contextmanager
def _register_hooks(model: nn.Module, count: int) -> Iterator[_NonFiniteHooks]:
    seen = _NonFiniteHooks(count)
    hooks = [
        module.register_forward_hook(functools.partial(seen.check_output, name))
        for name, module in model.named_modules()
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _iter_tensors(output: Any) -> Iterator[Tensor]:
    """The tensors of a module's output, which may be nested."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (Mapping, list, tuple)):
        for part in output.values() if isinstance(output, Mapping) else output:
            yield from _iter_tensors(part)
