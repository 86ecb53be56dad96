"""The table of a run spec: its groups of options, and the settings of the run itself.

A new group is its line here, its folder in components/, and its folder and default in conf/.
Types are those of `annotated_types`, which pydantic checks, as a mistyped option needs no pydantic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

PositiveInt = Annotated[int, Gt(0)]
NonNegativeInt = Annotated[int, Ge(0)]
Targets = Literal["indices", "probabilities"]

RUN_SETTINGS: dict[str, Any] = {
    "seed": NonNegativeInt,
    "epochs": Annotated[PositiveInt, Le(1_000_000)],
    "accumulate": PositiveInt,
    "name": str | None,
    "summary": bool,
    "on_nonfinite": Literal["stop", "skip"],
    "nonfinite_limit": PositiveInt,
    "channels_last": bool | Literal["auto"],
    "compile": bool,
    "checkpoint.every": PositiveInt | None,
    "checkpoint.per": Literal["epoch", "step"],
    "checkpoint.keep": PositiveInt,
    "checkpoint.keep_finished": NonNegativeInt,
    "again": bool,
    "output_dir": str,
    "trust": list[str],
}


@dataclass(frozen=True)
class Group:
    name: str
    num_arguments: int
    """Arguments that the engine passes to the component by position."""
    off: str | None = None
    """The option that stands for "without", if the group is a trick."""
    engine_settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings that the engine obeys, and their types; the component is called without them."""
    required: tuple[str, ...] = ()
    """Engine settings that every option gives."""
    paths: tuple[str, ...] = ()
    """Settings that are paths to read from."""
    runtime_arguments: tuple[str, ...] = ()
    """Keyword arguments that the engine passes to a component that has them; never settings."""
    not_in_fingerprint: tuple[str, ...] = ()
    """Settings that can't change the run's numbers."""
    is_finite: bool = False
    """Whether no setting may be infinite."""


GROUP_TABLE = (
    Group("device", 0, not_in_fingerprint=("order", "threads")),
    Group(
        "data", 1,
        engine_settings={
            "batch_size": PositiveInt,
            "eval_batch_size": PositiveInt,
            "classes": Annotated[PositiveInt, Le(1_000_000)] | Literal["auto"],
        },
        required=("batch_size", "eval_batch_size", "classes"),
        paths=("path",),
        not_in_fingerprint=("path", "workers", "slow_after"),
    ),
    Group("sampler", 2, off="shuffled"),
    Group(
        "model", 0,
        engine_settings={"weights": str | None, "weights_head": Literal["auto", "keep"]},
        paths=("weights",),
        not_in_fingerprint=("weights", "weights_head"),
    ),
    Group("loss", 2, engine_settings={"takes": list[Targets]}),
    Group(
        "freeze", 1, off="none",
        engine_settings={
            "batchnorm": Literal["eval", "train", "affine_only"],
            "cache": Literal["auto", "off"],
        },
        not_in_fingerprint=("cache",),
    ),
    Group("param_groups", 1, off="all", is_finite=True),
    Group("optimizer", 1, is_finite=True),
    Group("sharpness", 2, off="none"),
    Group(
        "scheduler", 1, off="constant",
        engine_settings={
            "per": Literal["epoch", "step"], "monitor": Literal["val/loss", "val/accuracy"],
        },
        required=("per",),
        runtime_arguments=("total",),
    ),
    Group("warmup", 1, off="none"),
    Group("clip", 1, off="none"),
    Group("precision", 1, off="fp32"),
    Group("augment", 3, off="none", engine_settings={"gives": Targets}),
    Group("average", 1, off="none"),
    Group("evaluation", 2, off="plain"),
    Group("stop", 1, off="none"),
    Group("distributed", 0),
    Group("tracking", 1),
)  # fmt: skip
"""In the order in which the engine builds them."""

GROUPS_BY_NAME = {group.name: group for group in GROUP_TABLE}

GROUPS = tuple(GROUPS_BY_NAME)

OFF_OPTIONS = {group.name: group.off for group in GROUP_TABLE if group.off is not None}

ENGINE_SETTINGS = {group.name: group.engine_settings for group in GROUP_TABLE}

FINGERPRINT_EXCLUDED_SETTINGS = {group.name: group.not_in_fingerprint for group in GROUP_TABLE}

FINGERPRINT_EXCLUDED_FIELDS = (
    "options", "name", "summary", "output_dir", "trust", "tracking", "checkpoint", "again",
)  # fmt: skip
