"""What a spec requires of every parameter, computed from the components on a copy of the model.

Independent of what the engine built, so that a mistake of the engine is detected.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from recipe.components.contract import LRCurves
from recipe.config.instantiate import Components
from recipe.config.spec import RunSpec
from recipe.nn import rng
from recipe.training import freezing, lr_schedule
from recipe.training.param_groups import NON_OPTIMIZER_KEYS

NEVER_TRAINED = math.inf


@dataclass(frozen=True)
class ExpectedTraining:
    unfreeze_epochs: dict[str, float]
    """By parameter: the epoch from which it is trained, or NEVER_TRAINED."""
    batchnorm_unfreeze_epochs: dict[str, float]
    """By BatchNorm layer with frozen statistics: the epoch from which they are updated."""
    group_names: dict[str, str]
    """By parameter."""
    group_options: dict[str, dict[str, Any]]
    """By group: the options that it sets itself."""
    optimizer_defaults: dict[str, Any]
    base_lr: dict[str, float]
    """Of every group that is trained at any time."""
    lr_curves: LRCurves
    warmup_factors: list[float]

    @classmethod
    def from_spec(
        cls, spec: RunSpec, components: Components, model: nn.Module, steps_per_epoch: int
    ) -> ExpectedTraining:
        try:
            stand_in = _copy_model(model, weights=False)
            return cls._from_model_copy(spec, components, stand_in, steps_per_epoch)
        except (NotImplementedError, RuntimeError):  # a component that reads the weights
            stand_in = _copy_model(model, weights=True)
            return cls._from_model_copy(spec, components, stand_in, steps_per_epoch)

    @classmethod
    def _from_model_copy(
        cls, spec: RunSpec, components: Components, stand_in: nn.Module, steps_per_epoch: int
    ) -> ExpectedTraining:
        with rng.isolate_seeded_rng(spec.seed, "freeze"):
            timetable = components["freeze"].bind()(stand_in) or {}
        later = {name: float(epoch) for epoch, names in timetable.items() for name in names}
        thaws = {
            name: 0.0 if p.requires_grad else later.get(name, NEVER_TRAINED)
            for name, p in stand_in.named_parameters()
        }
        policy = spec.freeze.get("batchnorm", "eval")
        batchnorms = {} if policy == "train" else _batchnorm_unfreeze_epochs(stand_in, thaws)
        if policy == "affine_only":
            for layer in batchnorms:
                module = stand_in.get_submodule(layer)
                thaws |= {f"{layer}.{n}": 0.0 for n, _ in module.named_parameters(recurse=False)}
        names = {id(p): name for name, p in stand_in.named_parameters()}
        with rng.isolate_seeded_rng(spec.seed, "param_groups"):
            made = components["param_groups"].bind()(stand_in)
        groups = {names[id(p)]: group["name"] for group in made for p in group["params"]}
        options = {
            group["name"]: {k: v for k, v in group.items() if k not in NON_OPTIMIZER_KEYS}
            for group in made
        }
        usual = components["optimizer"].bind()([nn.Parameter(torch.zeros(1))]).defaults
        alive = {groups[name] for name, epoch in thaws.items() if epoch < NEVER_TRAINED}
        base_lr = {
            name: float(own.get("lr", usual["lr"]))
            for name, own in options.items()
            if name in alive
        }
        rates = lr_schedule.compute_lr_curves(spec, components, base_lr, steps_per_epoch)
        ramp = lr_schedule.compute_warmup_factors(spec, components, steps_per_epoch)
        return cls(thaws, batchnorms, groups, options, usual, base_lr, rates, ramp)

    def frozen_names(self, epoch: int) -> set[str]:
        """Parameters that are frozen in an epoch; the first epoch is 0."""
        return {name for name, thaw in self.unfreeze_epochs.items() if thaw > epoch}

    @property
    def has_only_defaults(self) -> bool:
        """Whether no group changes an option of the optimizer, as with `param_groups=all`."""
        usual = _normalize_options(self.optimizer_defaults)
        return all(
            _normalize_options({**self.optimizer_defaults, **self.group_options[name]}) == usual
            for name in self.base_lr
        )


def _normalize_options(options: dict[str, Any]) -> dict[str, Any]:
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}
    return {**plain, "lr": float(options["lr"])}


def _copy_model(model: nn.Module, *, weights: bool) -> nn.Module:
    """A copy on the meta device unless `weights`."""
    empty: dict[int, Any] = {}
    if not weights:
        empty = {id(p): nn.Parameter(p.detach().to("meta")) for p in model.parameters()}
        empty |= {id(buffer): buffer.detach().to("meta") for buffer in model.buffers()}
    return copy.deepcopy(model, empty).requires_grad_(True)


def _batchnorm_unfreeze_epochs(model: nn.Module, thaws: dict[str, float]) -> dict[str, float]:
    """By BatchNorm layer that is frozen at the start: the epoch at which it is unfrozen."""
    ends = dict.fromkeys(_frozen_batchnorms(model, thaws, 0.0), NEVER_TRAINED)
    for epoch in sorted({epoch for epoch in thaws.values() if epoch < NEVER_TRAINED}, reverse=True):
        for layer in ends.keys() - _frozen_batchnorms(model, thaws, epoch):
            ends[layer] = epoch
    return ends


def _frozen_batchnorms(model: nn.Module, thaws: dict[str, float], epoch: float) -> set[str]:
    return set(
        freezing.find_frozen_batchnorms(model, {name for name, end in thaws.items() if end > epoch})
    )
