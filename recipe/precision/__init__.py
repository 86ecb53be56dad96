"""Precision: called once as `precision(device, **settings) -> (autocast, scaler)`.

`autocast()` gives the context of a forward pass; `scaler` is a torch.amp.GradScaler,
switched off where the format needs none, so the step is written the same way for all.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from torch.amp import GradScaler

Precision = tuple[Callable[[], AbstractContextManager[object]], GradScaler]
