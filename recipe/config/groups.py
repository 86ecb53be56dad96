"""The table of groups, and the settings of the run itself.

A new group needs a line here, a folder in components/, and a folder and a default in conf/. Types
are annotated with `annotated_types`, which pydantic reads, so that pydantic isn't imported here.
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
    """The option that turns the group off, if it is a trick."""
    engine_settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings that the engine reads, and their types; they aren't passed to the component."""
    required: tuple[str, ...] = ()
    """Engine settings that every option must have."""
    paths: tuple[str, ...] = ()
    """Settings that are paths to read from."""
    runtime_arguments: tuple[str, ...] = ()
    """Keyword arguments that the engine passes to components that have them; never settings."""
    not_in_fingerprint: tuple[str, ...] = ()
    """Settings that don't affect the results of the run."""
    is_finite: bool = False
    """Whether infinite settings are refused."""


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
