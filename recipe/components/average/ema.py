"""Exponential moving average of weights and buffers.

Helps: Noisy training at a high or constant learning rate; it partly replaces a decay.
Not with: Runs of a few steps, whose average still contains early weights; warmup helps.
Costs: A copy of the model in memory, and a pass over the weights in each step.

Source: Polyak & Juditsky 1992; torch.optim.swa_utils, whose averaging function is used. Buffers
are averaged too, so that BatchNorm's statistics match the weights. torch's AveragedModel
synchronizes with the device at every step, and rounds the average of counters
(num_batches_tracked) down, so that they never increase; this implementation copies counters, and
also buffers that contain infinity on purpose, such as attention masks, whose average would be NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from itertools import chain
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Ema:
    def __init__(self, model: nn.Module, decay: float, warmup: bool) -> None:
        self.model = deepcopy(model)
        self._trained_model = model
        self._decay = decay
        self._warmup = warmup
        self._steps = 0
        self._is_averaged = [
            value.is_floating_point() and bool(value.isfinite().all())
            for value in _parameters_and_buffers(model)
        ]

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        averages: list[Tensor] = []
        values: list[Tensor] = []
        pairs = zip(
            _parameters_and_buffers(self.model),
            _parameters_and_buffers(self._trained_model),
            self._is_averaged,
            strict=True,
        )
        for average, value, averaged in pairs:
            if self._steps == 0 or not averaged:
                average.copy_(value)
            else:
                averages.append(average)
                values.append(value)
        if averages:
            ramp = (1 + self._steps) / (10 + self._steps) if self._warmup else 1.0
            get_ema_multi_avg_fn(min(self._decay, ramp))(averages, values, self._steps)
        self._steps += 1

    def after_epoch(self, progress: float, inputs: Callable[[], Iterable[Tensor]]) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps, "model": self.model.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._steps = state["steps"]
        self.model.load_state_dict(state["model"])


def ema(model: nn.Module, *, decay: Annotated[float, Field(gt=0, lt=1)], warmup: bool) -> Ema:
    """Returns an average that equals the weights after the first step; each later step sets it to
    d * average + (1 - d) * weights, where d is `decay`.

    With `warmup`, after n earlier steps d is at most (1 + n) / (10 + n), so that the initial
    weights lose their influence quickly. Source: `num_updates` of TensorFlow 1's
    ExponentialMovingAverage.
    """
    return Ema(model, decay, warmup)


def _parameters_and_buffers(model: nn.Module) -> Iterable[Tensor]:
    return chain(model.parameters(), model.buffers())
