"""Adaptive gradient clipping: limit each gradient relative to the norm of its weights.

Helps: Models without normalisation and large batches, in which single layers become unstable.
Not with: A tiny eps and weights initialised with 0, which can then hardly change.
Costs: Two passes over weights and gradients in each step.

Source: Brock et al. 2021, https://arxiv.org/abs/2102.06171. As in the authors' code and in timm, a
parameter of one dimension (a bias, a scale) is one unit with one norm. As in the paper, the option
doesn't clip the classifier (`agc_but_head`); `agc` clips all parameters. The authors divide by
max(|grad|, 1e-6); this implementation divides by |grad|, so that tiny limits hold as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.utils import get_total_norm

from recipe.components.clip import Clip
from recipe.components.contract import PlannedRun, audit, check, needs_model
from recipe.nn import layers

PositiveFiniteFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@torch.no_grad()
def agc(
    params: list[nn.Parameter], *, ratio: PositiveFiniteFloat, eps: PositiveFiniteFloat
) -> tuple[Tensor, Tensor]:
    """Scales gradients in place to |grad| <= ratio * max(|weight|, eps) per output unit.

    An output unit is a row of the first dimension (one filter, one neuron); |.| is the L2 norm.
    Returns the total L2 norm of all gradients before clipping, shape (), and whether any unit was
    above its limit, shape (), bool.
    """
    total = get_total_norm([p.grad for p in params if p.grad is not None])
    any_above = torch.zeros_like(total, dtype=torch.bool)
    for p in params:
        if p.grad is not None:
            size, limit = _unit_norms_and_limits(p, ratio, eps)
            above = size > limit
            p.grad.mul_(torch.where(above, limit / size, 1.0))
            any_above |= above.any()
    return total, any_above


@needs_model
def agc_but_head(
    model: nn.Module, *, ratio: PositiveFiniteFloat, eps: PositiveFiniteFloat, head: str
) -> Clip:
    """Returns `agc` for all parameters except those of the classifier, which the returned norm
    includes.

    `head`: `auto` (the classifier, or all classifiers), or a name or pattern. Raises ValueError if
    the pattern matches no parameter.
    """
    excluded = _head_parameter_ids(model, head)

    def clip(params: list[nn.Parameter]) -> tuple[Tensor, Tensor]:
        total = get_total_norm([p.grad for p in params if p.grad is not None])
        _, any_above = agc([p for p in params if id(p) not in excluded], ratio=ratio, eps=eps)
        return total, any_above.to(total.device)  # without parameters, it is on the CPU

    return clip


@check(agc_but_head)
def check_agc_but_head(planned: PlannedRun, *, head: str, **settings: Any) -> Iterator[str]:
    """A parameter that is not the head's must be trained in some epoch."""
    excluded = _head_parameter_ids(planned.model, head)
    trained = [p for group in planned.optimizer.param_groups for p in group["params"]]
    unfrozen = [
        planned.model.get_parameter(name) for name in planned.freeze_schedule.scheduled_names
    ]
    if all(id(p) in excluded for p in [*trained, *unfrozen]):
        yield (
            f"{planned.choice('clip')} doesn't clip the classifier (clip.head={head}), and with "
            f"{planned.choice('freeze')} nothing else is trained; use clip=norm, or freeze less"
        )


@audit(agc_but_head)
def audit_agc_but_head(
    params: list[nn.Parameter], model: nn.Module, *, ratio: float, eps: float, head: str
) -> Iterator[str]:
    excluded = _head_parameter_ids(model, head)
    for p in params:
        if p.grad is not None and id(p) not in excluded:
            size, limit = _unit_norms_and_limits(p, ratio, eps)
            if bool((size > limit * (1 + 1e-4)).any()):
                yield f"a unit's gradient is {float((size / limit).max()):g} times its limit"


def _head_parameter_ids(model: nn.Module, head: str) -> set[int]:
    return {
        id(model.get_parameter(name))
        for name in layers.find_head_parameters(model, head, "clip.head")
    }


def _unit_norms_and_limits(p: nn.Parameter, ratio: float, eps: float) -> tuple[Tensor, Tensor]:
    """Returns the norm of the gradient of each output unit, and its limit."""
    within_unit = tuple(range(1, p.ndim)) or None
    limit = vector_norm(p.detach(), dim=within_unit, keepdim=True).clamp(min=eps) * ratio
    return vector_norm(p.grad, dim=within_unit, keepdim=True), limit
