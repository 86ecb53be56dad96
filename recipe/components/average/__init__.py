"""Average: called once as `average(model, **settings) -> Average`; averages weights during a run.

`model` of the result is evaluated and saved: a module with the parameter names of the trained one.
`after_step(progress)` is called after each optimizer step, `after_epoch(progress, inputs)` after
each epoch, where `progress` is the share of the run that is done, above 0 up to 1, and `inputs()`
iterates over the epoch's batches of inputs once more, on the device and without skipped batches,
to compute statistics again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from torch import Tensor, nn


class Average(Protocol):
    @property
    def model(self) -> nn.Module: ...

    def after_step(self, progress: float) -> None: ...

    def after_epoch(self, progress: float, inputs: Callable[[], Iterable[Tensor]]) -> None: ...
