"""NaN and infinity: found before they reach the weights, and traced to where they began."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from recipe.errors import RecipeError
from recipe.evaluate import preserved

Policy = Literal["stop", "skip"]

WAYS_OUT = "lower the learning rate, use clip=norm, or look at those samples"


class NonFinite(RecipeError):
    """A loss or gradient that is no finite number."""

    def __init__(self, what: str, where: str) -> None:
        self.what = what
        self.where = where
        self.step = self.epoch = self.batch = 0
        self.samples: list[int] = []
        """Indices into the training part."""
        super().__init__(f"{what}; {where}")

    def at(self, step: int, epoch: int, batch: int, samples: list[int]) -> NonFinite:
        """With the place in the run, each counted from 1; `batch` is that of the epoch."""
        self.step, self.epoch, self.batch, self.samples = step, epoch, batch, samples
        shown = ", ".join(map(str, samples[:8])) + (", ..." if len(samples) > 8 else "")
        place = f"step {step} (epoch {epoch}, batch {batch}"
        self.problems = [
            f"{place}, training samples {shown}): {self.what}; {self.where}; {WAYS_OUT}"
            if samples
            else f"step {step} (after epoch {epoch}): {self.what}; {self.where}"
        ]
        return self

    def add(self, sentence: str) -> None:
        """To what is shown."""
        self.problems = [f"{self.problems[0]}; {sentence}"]

    def facts(self) -> dict[str, Any]:
        """All that is known, for the record."""
        names = ("step", "epoch", "batch", "samples", "what", "where")
        return {name: getattr(self, name) for name in names}

    def __str__(self) -> str:
        return self.problems[0]


@dataclass
class Guard:
    """What is done about a batch that gives a loss or gradient that isn't finite."""

    policy: Policy
    limit: int
    """Batches that may be skipped in a run."""
    skipped: int = 0
    _buffers: list[Tensor] = field(default_factory=list)

    def before_step(self, model: nn.Module) -> None:
        """Remembers what the forward pass moves, if the batch may have to be taken back."""
        if self.policy == "skip":
            self._buffers = [buffer.clone() for buffer in model.buffers()]

    def refuses(self, loss: Tensor, norm: Tensor, scaler: torch.amp.GradScaler) -> bool:
        """Whether loss (shape ()) or gradient norm (shape ()) must not reach the weights.

        A gradient that overflowed because its loss was scaled up is the scaler's business. Waits
        for the device: after the optimizer's step it would be too late.
        """
        if math.isfinite(loss.item()) and math.isfinite(norm.item()):
            return False
        return not (scaler.is_enabled() and math.isfinite(loss.item()) and scaler.get_scale() > 1)

    def skip(self, model: nn.Module, loss: Tensor, trace: Callable[[], str]) -> None:
        """Takes the batch back. Raises NonFinite if it may not be skipped."""
        self.skipped += 1
        what = "a gradient is not finite" if math.isfinite(loss.item()) else f"the loss is {loss:g}"
        if self.policy == "stop":
            raise NonFinite(what, trace())
        with torch.no_grad():
            for buffer, value in zip(model.buffers(), self._buffers, strict=True):
                buffer.copy_(value)
        if self.skipped > self.limit:
            what += f", and {self.limit} batches have been skipped already (nonfinite_limit)"
            raise NonFinite(what, trace())


def trace_step(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    autocast: Callable[[], AbstractContextManager[Any]],
    inputs: Tensor,
    target: Tensor,
) -> str:
    """Where in a training step the first number that isn't finite appears, found by doing it once
    more; leaves weights, buffers and random streams as they are."""
    with preserved(model, buffers=True):
        with torch.no_grad():
            found = _in_forward(model, autocast, inputs)
        return found or _in_backward(model, loss, autocast, inputs, target)


def trace_evaluation(
    model: nn.Module,
    autocast: Callable[[], AbstractContextManager[Any]],
    batches: Iterator[Tensor],
) -> str:
    """Where in an evaluation the first number that isn't finite appears."""
    with preserved(model), torch.inference_mode():
        model.eval()
        for inputs in batches:
            found = _in_forward(model, autocast, inputs)
            if found:
                return found
    return "every output of the model is finite, so it is the loss itself"


def _in_forward(
    model: nn.Module, autocast: Callable[[], AbstractContextManager[Any]], inputs: Tensor
) -> str | None:
    """In words: the samples, the parameter, or the layer."""
    wrong = [n for n, sample in enumerate(inputs, 1) if not bool(sample.isfinite().all())]
    if wrong:
        return f"the batch's own inputs are not finite ({len(wrong)} of {len(inputs)} samples)"
    used: list[tuple[str, Tensor]] = [*model.named_parameters()]
    if not model.training:  # in training BatchNorm goes by the batch, whatever its statistics are
        used += model.named_buffers()
    for name, value in used:
        if not _finite(value):
            return f"{name} itself is not finite"
    with _first_output(model) as first, autocast():
        model(inputs)
    return first[0] if first else None


@contextmanager
def _first_output(model: nn.Module) -> Iterator[list[str]]:
    """The first layer, in the order in which they finish, whose output isn't finite."""
    first: list[str] = []

    def looking(name: str) -> Callable[..., None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            if not first and isinstance(output, Tensor) and not _finite(output):
                path = name or "the model"
                first.append(f"first in the output of {path} ({type(module).__name__})")

        return look

    hooks = [module.register_forward_hook(looking(name)) for name, module in model.named_modules()]
    try:
        yield first
    finally:
        for hook in hooks:
            hook.remove()


def _in_backward(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    autocast: Callable[[], AbstractContextManager[Any]],
    inputs: Tensor,
    target: Tensor,
) -> str:
    """The backward pass begins at the output, so the last parameter's gradient comes first."""
    with autocast():
        value = loss(model(inputs), target)
    if not _finite(value):
        return "every output of the model is finite, so it is the loss itself"
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    gradients = torch.autograd.grad(value, [p for _, p in named], allow_unused=True)
    pairs = zip(named, gradients, strict=True)
    bad = [name for (name, _), g in pairs if g is not None and not _finite(g)]
    if bad:
        return (
            f"first in the gradient of {bad[-1]} (of {len(bad)} of {len(named)} parameters in all)"
        )
    return "doing the step once more gave finite numbers, so it is too large to add up, or chance"


def _finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(value.isfinite().all())
