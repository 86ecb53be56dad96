"""What stays frozen while a run goes on: the BatchNorm policy, and what thaws when."""

from __future__ import annotations

from types import MethodType
from typing import Any, Literal

import torch
from torch import nn

from recipe.nn import layers

Policy = Literal["eval", "train", "affine_only"]


class Frozen:
    """The frozen part of a model; sees to it that frozen BatchNorm layers do what `policy` says."""

    def __init__(self, model: nn.Module, timetable: dict[int, list[str]], policy: Policy) -> None:
        self.model = model
        self.timetable = timetable
        self.policy = policy
        self.names = {name for name, p in model.named_parameters() if not p.requires_grad}
        """Parameters that are frozen now."""
        self.batchnorms = batchnorms(model, self.names)
        """Names of the BatchNorm layers that are frozen at the start."""
        self._apply_policy()

    @property
    def later(self) -> set[str]:
        """Parameters that are trained from some epoch on."""
        return {name for names in self.timetable.values() for name in names}

    def unfreeze(
        self, optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]], epoch: int
    ) -> None:
        """Trains what the timetable names for this epoch, in the optimizer group it belongs to."""
        names = self.timetable.get(epoch, [])
        if not names:
            return
        held = {group["name"]: group["params"] for group in optimizer.param_groups}
        home = {id(p): held[g["name"]] for g in groups if g["name"] in held for p in g["params"]}
        for name in names:
            parameter = self.model.get_parameter(name)
            if not parameter.requires_grad:
                parameter.requires_grad_(True)
                home[id(parameter)].append(parameter)
        self.names.difference_update(names)
        self._apply_policy()

    def _apply_policy(self) -> None:
        """A layer that is to stay in eval mode gets a `train` of its own, so that no later
        `model.train()` reaches it; one that is no longer frozen gets torch's back."""
        still = batchnorms(self.model, self.names)
        for path, module in self.model.named_modules():
            if not isinstance(module, layers.BATCH_NORMS):
                continue
            vars(module).pop("train", None)
            if self.policy != "train" and path in still:
                module.train = MethodType(_stay_in_eval, module)  # type: ignore[method-assign]
                module.eval()
                if self.policy == "affine_only":
                    module.requires_grad_(True)
            else:
                module.train(self.model.training)


def batchnorms(model: nn.Module, frozen: set[str]) -> list[str]:
    """Names of the BatchNorm layers that are frozen when the parameters `frozen` are."""
    is_frozen, found = False, []
    for path, module in model.named_modules():
        own = [f"{path}.{name}".lstrip(".") for name, _ in module.named_parameters(recurse=False)]
        if own:  # a BatchNorm without weight and bias goes with the layer before it
            is_frozen = frozen.issuperset(own)
        if is_frozen and isinstance(module, layers.BATCH_NORMS):
            found.append(path)
    return found


def _stay_in_eval(module: nn.Module, mode: bool = True) -> nn.Module:
    return nn.Module.train(module, False)
