"""The components of a training step: built from their options, and open to an observer."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from recipe.components.contract import needs_model
from recipe.config.instantiate import Component
from recipe.errors import RecipeError

P = ParamSpec("P")
R = TypeVar("R")

Augment = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]
Clip = Callable[[list[nn.Parameter]], tuple[Tensor, Tensor]]
Sharpness = Callable[[list[nn.Parameter], Callable[[], None]], None]


class StepComponent(Generic[P, R]):
    """A component as a training step calls it: directly, or through an observer."""

    def __init__(self, component: Callable[P, R]) -> None:
        functools.update_wrapper(self, component, (), ())
        self._component = component
        self._observer: Callable[Concatenate[Callable[P, R], P], R] | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if self._observer is None:
            return self._component(*args, **kwargs)
        return self._observer(self._component, *args, **kwargs)

    @contextmanager
    def observed_by(self, observer: Callable[Concatenate[Callable[P, R], P], R]) -> Iterator[None]:
        """Within the block, calls `observer(component, *args)` in place of `component(*args)`."""
        self._observer = observer
        try:
            yield
        finally:
            self._observer = None


def build_loss(component: Component, dataset_properties: Mapping[str, Any] | None) -> Loss:
    """The loss; under autocast it is computed in float32, including its weights and sums."""
    bound = component.bind(dataset_properties)
    loss = bound() if inspect.isclass(component.function) else bound

    def in_float32(output: Tensor, target: Tensor) -> Tensor:
        device = output.device.type
        if not torch.is_autocast_enabled(device):
            return loss(output, target)  # type: ignore[no-any-return]
        with torch.autocast(device, enabled=False):
            return loss(output.float(), target)  # type: ignore[no-any-return]

    return functools.update_wrapper(in_float32, loss, (), ())


def build_clip(option: str, clip: Callable[..., Any], model: nn.Module) -> Clip:
    """The clip as a step calls it; one that returns the norm alone is measured before and after."""
    if needs_model.marks(clip):
        clip = clip(model)
    reports_clipping = False

    def measured(params: list[nn.Parameter]) -> tuple[Tensor, Tensor]:
        nonlocal reports_clipping
        before = None if reports_clipping else _total_grad_norm(params)
        returned = clip(params)
        if isinstance(returned, tuple):
            reports_clipping = True  # from now on it is not measured
            return returned
        if not isinstance(returned, Tensor):
            hint = "; mark one that is called with the model by @needs_model"
            raise RecipeError(
                f"clip={option} returned {returned!r}; a clip returns the norm of all "
                "gradients before clipping, a tensor of shape ()"
                f"{hint if callable(returned) else ''}"
            )
        if before is None:
            raise RecipeError(
                f"clip={option} returned a norm alone, but norm and whether a gradient "
                "was changed in an earlier step; return the same in every step"
            )
        return returned, _total_grad_norm(params) != before

    return functools.update_wrapper(measured, clip, (), ())


def _total_grad_norm(params: list[nn.Parameter]) -> Tensor:
    return nn.utils.get_total_norm([p.grad for p in params if p.grad is not None])
