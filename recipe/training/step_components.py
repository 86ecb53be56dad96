"""The components of a training step, around which an observer can be placed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Concatenate, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

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
