"""Unfreeze a model stage by stage, usually from the classifier towards the input.

Helps: Fine-tuning with few images, where training all layers at once loses pretrained features.
Not with: `scheduler=one_cycle`, if its peak is before the last stage is unfrozen (refused).
Costs: It saves time in the epochs in which layers are frozen.

Source: gradual unfreezing of Howard and Ruder 2018, https://arxiv.org/abs/1801.06146, section 3.3;
there, one layer per epoch, here any stages at any epochs.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, NonNegativeInt
from torch import nn
from typing_extensions import TypedDict

from recipe.nn.parameter_patterns import assign_patterns


class UnfreezeStage(TypedDict):
    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    epoch: NonNegativeInt
    names: Annotated[list[str], Field(min_length=1)]


def gradual(model: nn.Module, *, stages: list[UnfreezeStage]) -> dict[int, list[str]]:
    """Freezes the parameters of all stages; returns the names that are trained from each epoch on.

    A stage at epoch 0 isn't frozen. Raises SpecError if a pattern matches no parameter, ValueError
    if two stages contain the same parameter.
    """
    if not stages:
        raise ValueError("freeze.stages is empty; name stages, or use freeze=none")
    names = [name for name, _ in model.named_parameters()]
    timetable: dict[int, list[str]] = {}
    taken: dict[str, int] = {}
    for index, stage in enumerate(stages):
        key, epoch = f"freeze.stages[{index}].names", stage["epoch"]
        for name in assign_patterns(key, stage["names"], names):
            if name in taken:
                raise ValueError(f"{key}: {name} is already in stages[{taken[name]}]; name it once")
            taken[name] = index
            timetable.setdefault(epoch, []).append(name)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in taken or name in timetable.get(0, ()))
    return timetable
