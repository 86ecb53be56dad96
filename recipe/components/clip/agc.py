"""Adaptive gradient clipping: bound each gradient by the size of the weights it moves.

Helps: Models without normalisation and large batches, where single layers blow up.
Not with: Layers that start at 0 with a tiny eps, which then can't move.
Costs: Two passes over weights and gradients in a step.

Source: Brock et al. 2021, https://arxiv.org/abs/2102.06171. As in the authors' code and in
timm's, a parameter of one dimension (a bias, a scale) counts as one unit with one norm.
The paper leaves the classifier head unclipped: so does the option, by way of `agc_but_head`;
`agc` itself clips every parameter passed in.
The authors divide by max(|grad|, 1e-6); here by |grad|, so a tiny limit holds as well.
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
    """Scale gradients in place to |grad| <= ratio * max(|weight|, eps) per output unit.

    An output unit is a row of the first dimension (one filter, one neuron); |.| is the L2 norm.
    Returns the total L2 norm of all gradients before, shape (), and whether any unit was
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
    """`agc` for all of a model's parameters but the classifier's, whose norm still counts.

    `head`: `auto` (the classifier, all of several), or a name or pattern. Raises ValueError if
    the pattern matches nothing.
    """
    spared = _head_parameter_ids(model, head)

    def clip(params: list[nn.Parameter]) -> tuple[Tensor, Tensor]:
        total = get_total_norm([p.grad for p in params if p.grad is not None])
        _, any_above = agc([p for p in params if id(p) not in spared], ratio=ratio, eps=eps)
        return total, any_above.to(total.device)  # of no parameter at all it is on the CPU

    return clip


@check(agc_but_head)
def check_agc_but_head(planned: PlannedRun, *, head: str, **settings: Any) -> Iterator[str]:
    """Something besides the head must be trained, from the start or from a later epoch on."""
    spared = _head_parameter_ids(planned.model, head)
    trained = [p for group in planned.optimizer.param_groups for p in group["params"]]
    later = [planned.model.get_parameter(name) for name in planned.freeze_schedule.scheduled_names]
    if all(id(p) in spared for p in [*trained, *later]):
        yield (
            f"{planned.choice('clip')} leaves the classifier head alone (clip.head={head}), and "
            f"with {planned.choice('freeze')} nothing else is trained; use clip=norm, or "
            "freeze less"
        )


@audit(agc_but_head)
def audit_agc_but_head(
    params: list[nn.Parameter], model: nn.Module, *, ratio: float, eps: float, head: str
) -> Iterator[str]:
    spared = _head_parameter_ids(model, head)
    for p in params:
        if p.grad is not None and id(p) not in spared:
            size, limit = _unit_norms_and_limits(p, ratio, eps)
            if bool((size > limit * (1 + 1e-4)).any()):
                yield f"a unit's gradient is {float((size / limit).max()):g} times its limit"


def _head_parameter_ids(model: nn.Module, head: str) -> set[int]:
    return {
        id(model.get_parameter(name))
        for name in layers.find_head_parameters(model, head, "clip.head")
    }


def _unit_norms_and_limits(p: nn.Parameter, ratio: float, eps: float) -> tuple[Tensor, Tensor]:
    """Of every output unit the norm of the gradient and the largest one allowed."""
    within_unit = tuple(range(1, p.ndim)) or None
    limit = vector_norm(p.detach(), dim=within_unit, keepdim=True).clamp(min=eps) * ratio
    return vector_norm(p.grad, dim=within_unit, keepdim=True), limit
