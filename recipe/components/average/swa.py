"""Stochastic weight averaging.

Helps: Constant or cyclic rates, whose last weights circle around a better point.
Not with: Schedules that end near 0: the weights averaged are then all alike.
Costs: A copy of the model in memory, and a pass over the training inputs where there is
BatchNorm.

Source: Izmailov et al. 2018, https://arxiv.org/abs/1803.05407; torch.optim.swa_utils. The paper
goes with a constant or cyclic learning rate; here that is the scheduler's business. torch's
update_bn also resets BatchNorm layers that are frozen, and lets dropout draw; here frozen
layers keep their statistics, and all but the BatchNorm layers are in eval mode meanwhile.
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
    """The mean of the weights after every epoch that ends at `start` of the run or later.

    BatchNorm statistics are measured anew for the mean, with the inputs of the epoch:
    the mean over the batches, each batch counting alike.
    """
    return Swa(model, start)


def _find_batchnorms(model: nn.Module) -> list[tuple[str, _BatchNorm]]:
    """The BatchNorm layers that keep running statistics, with their names."""
    layers = [(name, layer) for name, layer in model.named_modules()
              if isinstance(layer, _BatchNorm)]  # fmt: skip
    return [(name, layer) for name, layer in layers if layer.track_running_stats]


def _find_updating_batchnorms(model: nn.Module) -> set[str]:
    """Names of the BatchNorm layers whose statistics training moves: a frozen one stays in eval
    mode. Asked of the trained model, where layers may have been unfrozen since it was copied."""
    was_training = model.training
    model.train()
    names = {name for name, layer in _find_batchnorms(model) if layer.training}
    model.train(was_training)
    return names


@torch.no_grad()
def _update_batchnorm_statistics(
    model: nn.Module, layers: list[_BatchNorm], inputs: Callable[[], Iterable[Tensor]]
) -> None:
    """Set the running statistics of `layers` to the mean over the batches of inputs."""
    device = next(model.parameters()).device
    gpus = [device] if device.type == "cuda" else []
    momenta = [layer.momentum for layer in layers]
    model.eval()
    with torch.random.fork_rng(devices=gpus):
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # the mean of all batches instead of a moving one
            layer.training = True
        for batch in inputs():
            model(batch)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        layer.training = False
