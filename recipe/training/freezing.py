"""Frozen layers during training: the BatchNorm policy, and what is unfrozen at which epoch."""

from __future__ import annotations

import functools
from types import MethodType
from typing import Any, Literal

import torch
from torch import nn

from recipe.config.spec import RunSpec
from recipe.nn import layers, rng

BatchNormPolicy = Literal["eval", "train", "affine_only"]


class FreezeSchedule:
    """The frozen parameters of a model; applies `policy` to its frozen BatchNorm layers."""

    def __init__(
        self, model: nn.Module, unfreeze_schedule: dict[int, list[str]], policy: BatchNormPolicy
    ) -> None:
        self.model = model
        self.unfreeze_schedule = unfreeze_schedule
        self.policy = policy
        self.frozen_names = {name for name, p in model.named_parameters() if not p.requires_grad}
        self.frozen_batchnorms = find_frozen_batchnorms(model, self.frozen_names)
        """Names of the layers that are frozen at the start."""
        self._apply_policy()

    @property
    def scheduled_names(self) -> set[str]:
        """Parameters that are unfrozen during the run."""
        return {name for names in self.unfreeze_schedule.values() for name in names}

    def unfreeze(
        self, optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]], epoch: int
    ) -> None:
        """Adds the parameters that are unfrozen at this epoch to their optimizer groups."""
        names = self.unfreeze_schedule.get(epoch, [])
        if not names:
            return
        held = {group["name"]: group["params"] for group in optimizer.param_groups}
        home = {id(p): held[g["name"]] for g in groups if g["name"] in held for p in g["params"]}
        for name in names:
            parameter = self.model.get_parameter(name)
            if not parameter.requires_grad:
                parameter.requires_grad_(True)
                home[id(parameter)].append(parameter)
        self.frozen_names.difference_update(names)
        self._apply_policy()

    def _apply_policy(self) -> None:
        """Overrides `train` of layers that must stay in eval mode, so that `model.train()` has no
        effect on them; unfrozen layers get the method of torch back."""
        still = find_frozen_batchnorms(self.model, self.frozen_names)
        for path, module in self.model.named_modules():
            if not isinstance(module, layers.BATCH_NORM_TYPES):
                continue
            vars(module).pop("train", None)
            if self.policy != "train" and path in still:
                module.train = MethodType(_keep_eval_mode, module)  # type: ignore[method-assign]
                module.eval()
                if self.policy == "affine_only":
                    module.requires_grad_(True)
            else:
                module.train(self.model.training)


def apply_freeze(spec: RunSpec, freeze: functools.partial[Any], model: nn.Module) -> FreezeSchedule:
    with rng.isolate_seeded_rng(spec.seed, "freeze"):
        timetable: dict[int, list[str]] = freeze(model) or {}
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            f"freeze={spec.options['freeze']} freezes all {len(list(model.parameters()))} "
            "parameters, so there is nothing to train; leave out some, such as the head "
            "(freeze=all_but_head)"
        )
    return FreezeSchedule(model, timetable, spec.freeze.get("batchnorm", "eval"))


def find_frozen_batchnorms(model: nn.Module, frozen_names: set[str]) -> list[str]:
    """Names of the BatchNorm layers that are frozen if the parameters `frozen_names` are."""
    is_frozen, found = False, []
    for path, module in model.named_modules():
        own = [f"{path}.{name}".lstrip(".") for name, _ in module.named_parameters(recurse=False)]
        if own:  # a BatchNorm without weight and bias is frozen with the layer before it
            is_frozen = frozen_names.issuperset(own)
        if is_frozen and isinstance(module, layers.BATCH_NORM_TYPES):
            found.append(path)
    return found


def _keep_eval_mode(module: nn.Module, mode: bool = True) -> nn.Module:
    return nn.Module.train(module, False)
