"""Where the first number that isn't finite appears: found by doing a step once more.

Only what failed is traced, so the steps before it pay nothing.
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

from recipe.nn.preserve import preserved
from recipe.nn.sharded import own

SMALLER = "lower the learning rate or clip the gradients"
THE_LOSS = "look at the loss, and at what it is given"
THE_SAMPLES = "mend or remove them"

Loss = Callable[[Tensor, Tensor], Tensor]
Autocast = Callable[[], AbstractContextManager[Any]]
Named = list[tuple[str, Tensor]]
Batch = tuple[Tensor, Tensor]

UNTRACED = "where is not looked for, as a process can't call this model by itself"


@dataclass(frozen=True)
class Found:
    where: str
    """In words."""
    advice: str = SMALLER
    layer: str | None = None
    """The module's name, `` for the model itself; None if it is in none."""
    rows: tuple[int, ...] = ()
    """Places in the batch, from 0, of the samples whose numbers aren't finite there."""
    batch: int | None = None
    """Of an evaluation, from 0."""


@dataclass(frozen=True)
class Step:
    """What goes into a training step, as it was."""

    model: nn.Module
    loss: Loss
    autocast: Autocast
    raw: Tensor
    """The batch as the data gave it."""
    inputs: Tensor
    """After augmentation."""
    target: Tensor


def trace_step(step: Step, rewind: Callable[[], None]) -> Found:
    """`rewind` puts torch's random streams where the step found them, so dropout hides the same.

    Leaves weights, their gradients, buffers and random streams as they are.
    """

    def search() -> Found:
        with preserved(step.model, buffers=True):
            rewind()
            return (
                _in_batch(step)
                or _in_weights(step.model.named_parameters())
                or _on_the_way(step.model, step.loss, step.autocast, step.inputs, step.target)
            )

    return _tried(search)


def trace_evaluation(
    model: nn.Module, loss: Loss, autocast: Autocast, batches: Iterable[Batch]
) -> Found:
    """`batches` on the device. Leaves modes and random streams as they are."""

    def search() -> Found:
        if found := unsound(model):
            return found
        with preserved(model), torch.no_grad():
            model.eval()
            for number, (inputs, target) in enumerate(batches):
                if found := _in_inputs(inputs) or _forward(model, loss, autocast, inputs, target):
                    return replace(found, batch=number)
        return Found("every batch's loss is finite, so it is too large to add up")

    return _tried(search)


def _tried(search: Callable[[], Found]) -> Found:
    """What is wrong must be told, even if not where."""
    try:
        return search()
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "")
        return Found(f"where is not known, as doing it again gave {type(error).__name__}: {reason}")


def unsound(model: nn.Module) -> Found | None:
    """A weight or buffer that can't be kept. Infinity is one only where training moves it: a buffer
    may hold it on purpose, such as an attention mask."""
    return _in_weights(chain(model.named_parameters(), model.named_buffers()))


def finite(value: Tensor) -> bool:
    """Whether every number is; takes no memory of the tensor's size."""
    return not _kind(value)


def _kind(value: Tensor) -> str:
    """`nan` or `inf`; nothing if all numbers are finite."""
    value = torch.view_as_real(value) if value.is_complex() else value
    if not value.is_floating_point() or not value.numel():
        return ""
    if value.element_size() < 2:
        value = value.float()  # torch can't compare numbers of 8 bits
    low, high = (end.item() for end in value.detach().aminmax())
    if math.isnan(low) or math.isnan(high):
        return "nan"
    return "inf" if math.isinf(low) or math.isinf(high) else ""


def _in_batch(step: Step) -> Found | None:
    if found := _in_inputs(step.raw):
        return found
    advice = "look at augment"
    if rows := _rows(step.inputs, len(step.raw)):
        return Found("augmentation made inputs that are not finite", advice, rows=rows)
    if not finite(step.target):
        return Found("augmentation made targets that are not finite", advice)
    return None


def _in_inputs(inputs: Tensor) -> Found | None:
    if rows := _rows(inputs, len(inputs)):
        return Found("the inputs themselves are not finite", THE_SAMPLES, rows=rows)
    return None


def _in_weights(named: Iterable[tuple[str, Tensor]]) -> Found | None:
    for name, value in named:
        kind = _kind(own(value))
        moved = value.requires_grad or name.endswith(("running_mean", "running_var"))
        if kind == "nan" or (kind and moved):
            layer = name.rpartition(".")[0]
            return Found(f"{name} itself holds {kind}", layer=layer)
    return None


def _rows(value: Tensor, count: int) -> tuple[int, ...]:
    """Places of the samples with a number that isn't finite, if the first dimension is theirs."""
    if value.ndim == 0 or len(value) != count or finite(value):
        return ()
    low, high = value.detach().reshape(count, -1).aminmax(dim=1)
    return tuple((~(low.isfinite() & high.isfinite())).nonzero().flatten().tolist())


def _on_the_way(
    model: nn.Module, loss: Loss, autocast: Autocast, inputs: Tensor, target: Tensor
) -> Found:
    """Through the model, the loss, and back."""
    with torch.enable_grad(), _looking(model, len(inputs)) as seen:
        with autocast():
            output = model(inputs)
            value = loss(output, target)
        if seen.forward or not finite(value):
            return seen.forward or _the_loss_itself()
        named: Named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        gradients = torch.autograd.grad(value, [p for _, p in named], allow_unused=True)
    got = [(name, g) for (name, _), g in zip(named, gradients, strict=True) if g is not None]
    return seen.backward or _in_gradients(got, seen.order)


def _forward(
    model: nn.Module, loss: Loss, autocast: Autocast, inputs: Tensor, target: Tensor
) -> Found | None:
    with _looking(model, len(inputs)) as seen, autocast():
        value = loss(model(inputs), target)
    return seen.forward or (None if finite(value) else _the_loss_itself())


def _the_loss_itself() -> Found:
    return Found("every output of the model is finite, so it is the loss itself", THE_LOSS)


def _in_gradients(gradients: Named, order: Mapping[str, int]) -> Found:
    """Of the parameters: the one whose layer ran last, as the way back begins there."""
    bad = [name for name, gradient in gradients if not finite(gradient)]
    if bad:
        name = max(bad, key=lambda name: order.get(name.rpartition(".")[0], 0))
        return Found(
            f"first in the gradient of {name} ({len(bad)} of {len(gradients)} parameters have one "
            "that is not finite)",
            layer=name.rpartition(".")[0],
        )
    if not finite(nn.utils.get_total_norm([gradient for _, gradient in gradients])):
        norms = {
            name: torch.linalg.vector_norm(gradient, dtype=torch.float64).item()
            for name, gradient in gradients
        }
        name = max(norms, key=lambda name: norms[name])
        return Found(
            "every gradient is finite, but too large for their norm; the largest is that of "
            f"{name} ({norms[name]:.3g})",
            layer=name.rpartition(".")[0],
        )
    return Found("done again, the step gave finite numbers, so it was chance (or the clip)")


@dataclass
class _Seen:
    """One pass through a model and back, as its layers' outputs tell of it."""

    count: int
    """Samples in the batch."""
    forward: Found | None = None
    backward: Found | None = None
    order: dict[str, int] = field(default_factory=dict)
    """When each layer last finished."""
    finished: int = 0
    _good: tuple[str, str] | None = None
    """The layer at whose output the gradient was last seen to be finite, and what it is called."""
    _at: Tensor | None = None

    def look(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        """A forward hook: layers finish before those that hold them."""
        self.finished += 1
        self.order[name] = self.finished
        called = (
            f"{name} ({type(module).__name__})" if name else f"the model ({type(module).__name__})"
        )
        for tensor in _tensors(output):
            if not self.forward and (kind := _kind(tensor)):
                rows = _rows(tensor, self.count)
                self.forward = Found(
                    f"first in the output of {called}: {kind}", SMALLER, name, rows
                )
            if tensor.requires_grad:
                tensor.register_hook(functools.partial(self.look_back, name, called, tensor))

    def look_back(self, name: str, called: str, tensor: Tensor, gradient: Tensor) -> None:
        if self.backward:
            return
        if _kind(gradient):
            rows = _rows(gradient, self.count)
            if self._good:
                layer, last = self._good
                where = f"on its way back from the output of {last} to that of {called}"
                self.backward = Found(f"first in the gradient, {where}", SMALLER, layer, rows)
            else:
                where = "the loss is finite, but not its gradient at the model's output"
                self.backward = Found(where, THE_LOSS, None, rows)
        elif tensor is not self._at:  # else it is the output of the layer around that one as well
            self._good, self._at = (name, called), tensor


@contextmanager
def _looking(model: nn.Module, count: int) -> Iterator[_Seen]:
    seen = _Seen(count)
    hooks = [
        module.register_forward_hook(functools.partial(seen.look, name))
        for name, module in model.named_modules()
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _tensors(output: Any) -> Iterator[Tensor]:
    """Those of a layer's output, which may be a tuple or dict of them, and so on."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (Mapping, list, tuple)):
        for part in output.values() if isinstance(output, Mapping) else output:
            yield from _tensors(part)
