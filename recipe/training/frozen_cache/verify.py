"""Checks that the tail on cached outputs gives bit-identical results to the full model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recipe.nn import rng
from recipe.nn.model_state import preserve_model_state
from recipe.training.frozen_cache import NotCacheable
from recipe.training.frozen_cache.trace import check_unchanged, named_tensors, restore_attributes

Autocast = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class _PassResult:
    """The results of a forward pass, and in training of a backward pass."""

    output: Tensor
    gradients: tuple[Tensor | None, ...]
    state: dict[str, Tensor]
    rng_position: object


def check_bit_identical(
    model: nn.Module,
    full_forward: Callable[[], Tensor],
    tail_forward: Callable[[], Tensor],
    autocast: Autocast,
    where: str,
) -> None:
    """Compares outputs, buffers and random streams after two ways of a forward pass; in training
    mode also the gradients of all trainable parameters.

    Restores the state of the model. Raises NotCacheable, naming `where`.
    """
    with restore_attributes(model) as changed:
        one, other = (_run_pass(model, way, autocast) for way in (full_forward, tail_forward))
    check_unchanged(changed)
    for what, same in (
        ("outputs", is_bit_identical(one.output, other.output)),
        ("gradients", all(map(_is_same_gradient, one.gradients, other.gradients))),
        ("buffers", one.state.keys() == other.state.keys()
         and all(is_bit_identical(value, other.state[name]) for name, value in one.state.items())),
        ("random numbers", one.rng_position == other.rng_position),
    ):  # fmt: skip
        if not same:
            raise NotCacheable(f"in {where} the {what} were not to the last bit those of the model")


def _run_pass(model: nn.Module, way: Callable[[], Tensor], autocast: Autocast) -> _PassResult:
    with preserve_model_state(model, buffers=True):
        output, gradients = (_run_training_pass if model.training else _run_eval_pass)(
            model, way, autocast
        )
        state = {name: value.detach().clone() for name, value in named_tensors(model).items()
                 if not isinstance(value, nn.Parameter)}  # fmt: skip
        return _PassResult(output.detach(), gradients, state, rng.snapshot_rng())


OutputAndGradients = tuple[Tensor, tuple[Tensor | None, ...]]


def _run_eval_pass(
    model: nn.Module, way: Callable[[], Tensor], autocast: Autocast
) -> OutputAndGradients:
    with torch.inference_mode(), autocast():
        return way(), ()


def _run_training_pass(
    model: nn.Module, way: Callable[[], Tensor], autocast: Autocast
) -> OutputAndGradients:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.enable_grad():
        with autocast():
            output = way()
        noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(0))
        # of a scalar, as torch imports sympy for gradients of larger outputs
        number = (output * noise.to(output)).sum()
        return output, torch.autograd.grad(number, trained, allow_unused=True)


def _is_same_gradient(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other if one is None or other is None else is_bit_identical(one, other)


def is_bit_identical(one: Tensor, other: Tensor) -> bool:
    """Compares bits, so that equal NaNs are identical."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    one, other = (each.detach().contiguous().flatten() for each in (one, other))
    return torch.equal(one.view(torch.uint8), other.view(torch.uint8)) if one.numel() else True
