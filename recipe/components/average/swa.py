"""Stochastic weight averaging.

Helps: Constant or cyclic learning rates, whose last weights oscillate around a better point.
Not with: Schedules that end near 0: the averaged weights are then nearly equal.
Costs: A copy of the model in memory; for models with BatchNorm, a pass over the training inputs
for each averaged epoch.

Source: Izmailov et al. 2018, https://arxiv.org/abs/1803.05407; torch.optim.swa_utils. The paper
uses a constant or cyclic learning rate; this option leaves the learning rate to the scheduler.
torch's update_bn also resets frozen BatchNorm layers and leaves dropout active; this
implementation keeps the statistics of frozen layers, and sets all layers except BatchNorm to eval
mode for the update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel


class Swa:
    def __init__(self, model: nn.Module, start: float) -> None:
        self._trained_model = model
        self._averaged_model = AveragedModel(model)
        self._start = start

    @property
    def model(self) -> nn.Module:
        return (
            self._averaged_model.module if self._averaged_model.n_averaged else self._trained_model
        )

    def after_step(self, progress: float) -> None:
        pass

    def after_epoch(self, progress: float, inputs: Callable[[], Iterable[Tensor]]) -> None:
        if progress >= self._start:
            self._averaged_model.update_parameters(self._trained_model)  # and copies the buffers
            learning = _find_updating_batchnorms(self._trained_model)
            layers = [layer for name, layer in _find_batchnorms(self.model) if name in learning]
            if layers:
                _update_batchnorm_statistics(self.model, layers, inputs)

    def state_dict(self) -> dict[str, Any]:
        return self._averaged_model.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._averaged_model.load_state_dict(state)


def swa(model: nn.Module, *, start: Annotated[float, Field(gt=0, lt=1)]) -> Swa:
    """Returns the mean of the weights after every epoch that ends at progress `start` or later.

    BatchNorm statistics are recomputed for the mean with the inputs of the epoch, as the
    unweighted mean over the batches.
    """
    return Swa(model, start)


def _find_batchnorms(model: nn.Module) -> list[tuple[str, _BatchNorm]]:
    """Returns names and modules of the BatchNorm layers that keep running statistics."""
    layers = [(name, layer) for name, layer in model.named_modules()
              if isinstance(layer, _BatchNorm)]  # fmt: skip
    return [(name, layer) for name, layer in layers if layer.track_running_stats]


def _find_updating_batchnorms(model: nn.Module) -> set[str]:
    """Returns the names of the BatchNorm layers that training updates; frozen layers stay in eval
    mode. `model` is the trained model: layers may have been unfrozen since it was copied."""
    was_training = model.training
    model.train()
    names = {name for name, layer in _find_batchnorms(model) if layer.training}
    model.train(was_training)
    return names


@torch.no_grad()
def _update_batchnorm_statistics(
    model: nn.Module, layers: list[_BatchNorm], inputs: Callable[[], Iterable[Tensor]]
) -> None:
    """Sets the running statistics of `layers` to the mean over the batches of inputs."""
    device = next(model.parameters()).device
    gpus = [device] if device.type == "cuda" else []
    momenta = [layer.momentum for layer in layers]
    model.eval()
    with torch.random.fork_rng(devices=gpus):
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # cumulative instead of moving average
            layer.training = True
        for batch in inputs():
            model(batch)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        layer.training = False
