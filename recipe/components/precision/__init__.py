"""Precision: called once as `precision(device, **settings) -> (autocast, scaler)`.

`autocast()` returns the context manager of a forward pass; `scaler` is a torch.amp.GradScaler,
disabled if the format needs none, so that the training step is the same for all formats.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import torch
from torch import nn
from torch.amp import GradScaler

from recipe.components.contract import PlannedRun, check

AutocastAndScaler = tuple[Callable[[], AbstractContextManager[object]], GradScaler]


@check("precision")
def check_precision(planned: PlannedRun) -> Iterator[str]:
    """float16 needs loss scaling, and a clip needs the gradients without the scale."""
    choice, device = planned.choice("precision"), planned.device.type
    with planned.autocast():
        float16 = torch.is_autocast_enabled(device) and (
            torch.get_autocast_dtype(device) == torch.float16
        )
    if float16 and not planned.scaler.is_enabled():
        yield (
            f"{choice} computes in float16, but its scaler is disabled, so small gradients would "
            "become 0; return an enabled GradScaler, or use precision=bf16"
        )
    if planned.scaler.is_enabled() and not _is_unscale_exact(planned.scaler, planned.device):
        yield (
            f"{choice}: its scaler's unscale_ doesn't restore the gradients of the loss, so "
            f"{planned.choice('clip')} would compare scaled gradients with its limit; use torch's "
            "GradScaler"
        )


def _is_unscale_exact(scaler: GradScaler, device: torch.device) -> bool:
    """Tests a gradient of 2**-10, which no usual scale makes overflow."""
    copied, x = copy.deepcopy(scaler), nn.Parameter(torch.ones((), device=device))
    optimizer = torch.optim.SGD([x], lr=1.0)
    copied.scale(x * 2**-10).backward()
    copied.unscale_(optimizer)
    assert x.grad is not None
    return abs(x.grad.item() * 2**10 - 1) < 1e-3
