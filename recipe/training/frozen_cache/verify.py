"""Does the tail, given what is kept, do to the last bit what the whole model does?"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recipe.nn import rng
from recipe.nn.preserve import preserved
from recipe.training.frozen_cache.not_cacheable import Refused
from recipe.training.frozen_cache.trace import check_unchanged, remembered, tensors

Autocast = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class _Pass:
    """All that comes of a forward pass, and in training of a backward pass."""

    output: Tensor
    gradients: tuple[Tensor | None, ...]
    state: dict[str, Tensor]
    drawn: object


def check(
    model: nn.Module,
    whole: Callable[[], Tensor],
    tail: Callable[[], Tensor],
    autocast: Autocast,
    where: str,
) -> None:
    """Compares two ways to the model's output, in training mode with the gradients of everything
    trainable, what is in the buffers afterwards, and what was drawn.

    Leaves no trace. Raises Refused, naming `where`.
    """
    with remembered(model) as changed:
        one, other = (_passed(model, way, autocast) for way in (whole, tail))
    check_unchanged(changed)
    for what, same in (
        ("outputs", same_bits(one.output, other.output)),
        ("gradients", all(map(_same, one.gradients, other.gradients))),
        ("buffers", one.state.keys() == other.state.keys()
         and all(same_bits(value, other.state[name]) for name, value in one.state.items())),
        ("random numbers", one.drawn == other.drawn),
    ):  # fmt: skip
        if not same:
            raise Refused(f"in {where} the {what} were not to the last bit those of the model")


def _passed(model: nn.Module, way: Callable[[], Tensor], autocast: Autocast) -> _Pass:
    with preserved(model, buffers=True):
        output, gradients = (_learnt if model.training else _evaluated)(model, way, autocast)
        state = {name: value.detach().clone() for name, value in tensors(model).items()
                 if not isinstance(value, nn.Parameter)}  # fmt: skip
        return _Pass(output.detach(), gradients, state, rng.standing())


Came = tuple[Tensor, tuple[Tensor | None, ...]]
"""Output and gradients."""


def _evaluated(model: nn.Module, way: Callable[[], Tensor], autocast: Autocast) -> Came:
    with torch.inference_mode(), autocast():
        return way(), ()


def _learnt(model: nn.Module, way: Callable[[], Tensor], autocast: Autocast) -> Came:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.enable_grad():
        with autocast():
            output = way()
        noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(0))
        # of a number, as torch imports a system of algebra for gradients of anything larger
        number = (output * noise.to(output)).sum()
        return output, torch.autograd.grad(number, trained, allow_unused=True)


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other if one is None or other is None else same_bits(one, other)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """NaN of the same bits is the same."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    one, other = (each.detach().contiguous().flatten() for each in (one, other))
    return torch.equal(one.view(torch.uint8), other.view(torch.uint8)) if one.numel() else True
