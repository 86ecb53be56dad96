"""Optimizers and dispatch modes without the import of torch's compiler, which takes 1 to 3 seconds.

torch imports it when an optimizer is created, at its first step, and at the first operation in a
dispatch mode, only to disable compilation of these. Nothing here compiles them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import _use_grad_for_differentiable
from torch.utils._python_dispatch import TorchDispatchMode


def disable_dynamo_for_optimizers() -> None:
    """Marks the methods of Optimizer that torch would mark in their first call."""
    for method in (Optimizer.add_param_group, Optimizer.state_dict, Optimizer.zero_grad):
        _mark_disabled(method)


def disable_dynamo_for_mode(mode_class: type[TorchDispatchMode]) -> None:
    """Marks `__torch_dispatch__` of a mode class."""
    _mark_disabled(mode_class.__torch_dispatch__)


def _mark_disabled(method: Callable[..., Any]) -> None:
    plain = getattr(method, "__wrapped__", None)
    if plain is not None:
        vars(plain).setdefault("__dynamo_disable", plain)


def replace_optimizer_step(optimizer: Optimizer) -> None:
    """Gives one of torch's own optimizers an equivalent `step`, hooks included, without the import.

    The `step` of any other optimizer is unchanged.
    """
    plain = _unwrap_step(type(optimizer).step)
    if plain is None:
        return

    @functools.wraps(plain)
    def stepped(self: Optimizer, *arguments: Any, **named: Any) -> Any:
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return plain(self, *arguments, **named)

    hooked = MethodType(Optimizer.profile_hook_step(stepped), optimizer)
    optimizer.step = hooked  # type: ignore[method-assign]


def _unwrap_step(step: Any) -> Callable[..., Any] | None:
    """The function inside torch's wrapper that imports the compiler; None without that wrapper."""
    while isinstance(step, FunctionType):
        within = getattr(step, "__wrapped__", None)
        if step.__code__ is _WRAPPER_CODE:
            return within
        step = within
    return None


_WRAPPER_CODE = _use_grad_for_differentiable(lambda optimizer: None).__code__
