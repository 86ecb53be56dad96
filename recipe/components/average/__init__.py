"""Average: called once as `average(model, **settings) -> Average`; averages weights over the run.

The result's `model` is what is evaluated and saved: a plain module with the names of the
trained one. `after_step` (only where the optimizer stepped) and `after_epoch` are called by the
loop with how much of the run is done, above 0 up to 1; `after_epoch` also gets a function that
gives the epoch's batches of inputs once more, on the device and without those that were left out,
for statistics that have to be measured again.
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
