"""Schedules chained.

Every part goes as if it were alone in a run of its own length: it begins with each group's own
learning rate, not with what the part before has left of it (`scale` says otherwise), and moves
when the whole does.

Helps: Recipes in phases, such as a constant rate for most of the run and a fall to 0 at its end.
Not with: A plateau in a part, which falls at a moment that nobody knows beforehand (refused).
Costs: Nothing that can be measured.

Source: torch.optim.lr_scheduler.SequentialLR, whose numbers these are. It isn't called itself,
as its parts share what they keep in the optimizer's groups: a one_cycle, which puts its own start
there as `initial_lr`, would become the start of all others, and a multistep that was resumed
before its turn can't begin. So each part is walked on groups of its own beforehand.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Annotated, Any

from pydantic import Field, PositiveInt
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from recipe.components.contract import (
    PlannedRun,
    caution,
    check,
    describe,
    needs_total_steps,
    warmup_setting,
)
from recipe.components.scheduler import build_scheduler, warn_below_one_epoch
from recipe.config import schema
from recipe.config.groups import ENGINE_SETTINGS
from recipe.errors import SpecError
from recipe.formatting import pluralize

ChainPart = functools.partial[Any]
"""An option of the menu with its settings, and what the chain wants to know of it."""

CHAIN_SETTINGS = {
    "length": PositiveInt,
    "scale": Annotated[float, Field(gt=0, allow_inf_nan=False)],
}
"""Settings of a part that are the chain's, and their types."""


@needs_total_steps
def chained(
    optimizer: Optimizer,
    *,
    total: PositiveInt,
    parts: Annotated[list[dict[str, Any]], Field(min_length=2)],
) -> LambdaLR:
    """The learning rates of part after part, `total` moves in all.

    Raises SpecError for parts without a length that isn't the last one's, and for settings that a
    part's option doesn't have.
    """
    read = _check_parts(parts)
    own = [float(group["lr"]) for group in optimizer.param_groups]
    curves: list[list[float]] = [[] for _ in own]
    for index, (part, length) in enumerate(zip(read, _part_lengths(read, total), strict=False)):
        for curve, rates in zip(curves, _part_lr_curves(index, part, own, length), strict=True):
            curve[-1:] = rates  # in the place of where the part before would go next
    factors = [
        [rate / lr if lr else 1.0 for rate in curve]
        for curve, lr in zip(curves, own, strict=True)
    ]  # fmt: skip
    return LambdaLR(optimizer, [_factor_function(each) for each in factors])


def _factor_function(factors: list[float]) -> Callable[[int], float]:
    """A plain function: of anything else LambdaLR keeps the content in checkpoints."""
    return lambda move: factors[move]


def _check_parts(parts: list[Any]) -> list[ChainPart]:
    """The parts, each held against its option's signature."""
    found: list[str] = []
    for index, part in enumerate(parts):
        key = f"scheduler.parts[{index}]"
        if not isinstance(part, functools.partial) or "option" not in part.keywords:
            found.append(f"{key} has no option; write {{option: <name>, length: <moves>}}")
            continue
        given = dict(part.keywords)
        option = given.pop("option")
        home = part.func.__module__
        if home.startswith("recipe.") and not home.startswith("recipe.components.scheduler."):
            found.append(f"{key}: {home} is no schedule; choose an option of scheduler")
            continue
        for name in CHAIN_SETTINGS.keys() & given.keys():
            found += schema.find_type_problems(f"{key}.{name}", CHAIN_SETTINGS[name], given[name])
        last = index == len(parts) - 1
        if last and "length" in given:
            found.append(f"{key}.length: the last part takes what is left of the run; leave it out")
        if not last and "length" not in given:
            found.append(f"{key}.length is not given; only the last part takes what is left")
        shared = [name for name in ENGINE_SETTINGS["scheduler"] if name in given]
        found += [f"{key}.{name}: all parts move together; set scheduler.{name}" for name in shared]
        own = {k: v for k, v in given.items() if k not in (*CHAIN_SETTINGS, *shared)}
        found += schema.find_setting_problems(
            "scheduler", option, part.func, {"per": "epoch", **own}, key
        )
    if found:
        raise SpecError(found)
    return parts


def _part_lengths(parts: list[ChainPart], total: int) -> list[int]:
    """How many moves each part has that begins before the run ends; the last of them ends with
    it."""
    lengths: list[int] = []
    while (left := total - sum(lengths)) > 0:
        lengths.append(min(parts[len(lengths)].keywords.get("length", left), left))
    return lengths


def _part_lr_curves(
    index: int, part: ChainPart, own: list[float], length: int
) -> list[list[float]]:
    """The learning rate of every group after 0, 1, ... `length` moves of a part by itself."""
    scale = part.keywords.get("scale", 1.0)
    keywords = {k: v for k, v in part.keywords.items() if k not in (*CHAIN_SETTINGS, "option")}
    alone = Optimizer([{"params": [], "lr": lr} for lr in own], {})
    alone._opt_called = True  # type: ignore[attr-defined]  # no step to take; else torch warns
    schedule = build_scheduler(functools.partial(part.func, **keywords), alone, length)
    if isinstance(schedule, ReduceLROnPlateau):
        raise ValueError(
            f"scheduler.parts[{index}]: {part.keywords['option']} waits for a metric, so its "
            "learning rates aren't known beforehand; use it without a chain"
        )
    moments = [schedule.get_last_lr()]
    for _ in range(length):
        schedule.step()
        moments.append(schedule.get_last_lr())
    return [[scale * float(rate) for rate in rates] for rates in zip(*moments, strict=True)]


@check(chained)
def check_chained(planned: PlannedRun, *, parts: list[ChainPart]) -> Iterator[str]:
    """Every part must begin before the run ends, and what rises in it must come to its top."""
    starts = [0, *accumulate(part.keywords["length"] for part in parts[:-1])]
    per, moves = planned.settings("scheduler")["per"], planned.scheduler_steps
    late = next((index for index, start in enumerate(starts) if start >= moves), None)
    if late is not None:
        yield (
            f"scheduler.parts[{late}] begins after {pluralize(starts[late], 'move')}, but the run "
            f"has {pluralize(moves, 'move')} (one every {per}), so it would never begin; use a "
            "shorter length before it, or more epochs"
        )
        return
    for index, (part, length) in enumerate(zip(parts, _part_lengths(parts, moves), strict=True)):
        key = warmup_setting.find(part)
        share = part.keywords[key] if key else 0.0
        if length - 1 < share * length:
            yield (
                f"scheduler.parts[{index}].{key} is {share:g}, but the part has "
                f"{pluralize(length, 'move')} (one every {per}), so it would end before the rise "
                "does; use scheduler.per=step, a smaller one, or a longer part"
            )
    if warmup_setting.find(parts[0]) and planned.spec.options["warmup"] != "none":
        yield (
            f"{planned.choice('warmup')} doesn't go with scheduler.parts[0], "
            f"{parts[0].keywords['option']}, which warms up itself; use warmup=none, or another "
            "option there"
        )


@describe(chained)
def describe_chained(planned: PlannedRun, *, parts: list[ChainPart]) -> str:
    """The length of every part, and of an epoch."""
    per = planned.settings("scheduler")["per"]
    lengths = _part_lengths(parts, planned.scheduler_steps)
    shown = ", ".join(
        f"{part.keywords['option']} {pluralize(length, per)}"
        for part, length in zip(parts, lengths, strict=True)
    )
    epoch = f"; an epoch has {pluralize(planned.steps_per_epoch, 'step')}" if per == "step" else ""
    return f"Parts: {shown}{epoch}"


@caution(chained)
def caution_chained(planned: PlannedRun, *, parts: list[ChainPart]) -> Iterator[str]:
    for index, part in enumerate(parts[:-1]):
        yield from warn_below_one_epoch(planned, f"parts[{index}].length", part.keywords["length"])
