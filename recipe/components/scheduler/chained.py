"""Several schedules one after the other.

Each part behaves as in a run of its length: it starts from each group's own learning rate (times
`scale`), not from where the part before it ended. All parts step together.

Helps: Recipes in phases, such as a constant rate for most of the run and a decay to 0 at its end.
Not with: A plateau as a part, as the epoch of its reductions isn't known in advance (refused).
Costs: Nothing that can be measured.

Source: torch.optim.lr_scheduler.SequentialLR, with the same numbers. SequentialLR itself isn't
used, as its parts share the state in the optimizer's groups: a one_cycle stores its initial rate
there as `initial_lr`, from which all other parts would start, and a multistep that is resumed
before its part begins fails. Here, the learning rates of each part are computed in advance.
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
from recipe.components.scheduler import (
    build_scheduler,
    format_scheduler_steps,
    warn_below_one_epoch,
)
from recipe.config import schema
from recipe.config.groups import ENGINE_SETTINGS
from recipe.errors import SpecError
from recipe.formatting import pluralize

ChainPart = functools.partial[Any]
"""A scheduler option with its settings, those of the chain included."""

CHAIN_SETTINGS = {
    "length": PositiveInt,
    "scale": Annotated[float, Field(gt=0, allow_inf_nan=False)],
}
"""Settings of each part that the chain reads, and their types."""


@needs_total_steps
def chained(
    optimizer: Optimizer,
    *,
    total: PositiveInt,
    parts: Annotated[list[dict[str, Any]], Field(min_length=2)],
) -> LambdaLR:
    """Returns a scheduler with the learning rates of all parts, `total` steps altogether.

    Raises SpecError for a part other than the last without a length, and for settings that the
    option of a part doesn't have.
    """
    read = _check_parts(parts)
    own = [float(group["lr"]) for group in optimizer.param_groups]
    curves: list[list[float]] = [[] for _ in own]
    for index, (part, length) in enumerate(zip(read, _part_lengths(read, total), strict=False)):
        for curve, rates in zip(curves, _part_lr_curves(index, part, own, length), strict=True):
            curve[-1:] = rates  # replaces the rate after the last step of the part before
    factors = [
        [rate / lr if lr else 1.0 for rate in curve]
        for curve, lr in zip(curves, own, strict=True)
    ]  # fmt: skip
    return LambdaLR(optimizer, [_factor_function(each) for each in factors])


def _factor_function(factors: list[float]) -> Callable[[int], float]:
    """Returns a plain function: LambdaLR stores the content of any other callable in
    checkpoints."""
    return lambda step: factors[step]


def _check_parts(parts: list[Any]) -> list[ChainPart]:
    """Returns the parts; raises SpecError unless each fits the signature of its option."""
    found: list[str] = []
    for index, part in enumerate(parts):
        key = f"scheduler.parts[{index}]"
        if not isinstance(part, functools.partial) or "option" not in part.keywords:
            found.append(f"{key} has no option; write {{option: <name>, length: <steps>}}")
            continue
        given = dict(part.keywords)
        option = given.pop("option")
        home = part.func.__module__
        if home.startswith("recipe.") and not home.startswith("recipe.components.scheduler."):
            found.append(f"{key}: {home} is not a scheduler; choose an option of scheduler")
            continue
        for name in CHAIN_SETTINGS.keys() & given.keys():
            found += schema.find_type_problems(f"{key}.{name}", CHAIN_SETTINGS[name], given[name])
        last = index == len(parts) - 1
        if last and "length" in given:
            found.append(f"{key}.length: the last part ends with the run; leave it out")
        if not last and "length" not in given:
            found.append(f"{key}.length is missing; give it for each part except the last")
        shared = [name for name in ENGINE_SETTINGS["scheduler"] if name in given]
        found += [f"{key}.{name}: all parts step together; set scheduler.{name}" for name in shared]
        own = {k: v for k, v in given.items() if k not in (*CHAIN_SETTINGS, *shared)}
        found += schema.find_setting_problems(
            "scheduler", option, part.func, {"per": "epoch", **own}, key
        )
    if found:
        raise SpecError(found)
    return parts


def _part_lengths(parts: list[ChainPart], total: int) -> list[int]:
    """Returns the number of scheduler steps of each part that begins before the run ends."""
    lengths: list[int] = []
    while (left := total - sum(lengths)) > 0:
        lengths.append(min(parts[len(lengths)].keywords.get("length", left), left))
    return lengths


def _part_lr_curves(
    index: int, part: ChainPart, own: list[float], length: int
) -> list[list[float]]:
    """Returns the learning rates of each group after 0, 1, ... `length` steps of a part."""
    scale = part.keywords.get("scale", 1.0)
    keywords = {k: v for k, v in part.keywords.items() if k not in (*CHAIN_SETTINGS, "option")}
    optimizer = Optimizer([{"params": [], "lr": lr} for lr in own], {})
    optimizer._opt_called = True  # type: ignore[attr-defined]  # or torch warns of missing steps
    schedule = build_scheduler(functools.partial(part.func, **keywords), optimizer, length)
    if isinstance(schedule, ReduceLROnPlateau):
        raise ValueError(
            f"scheduler.parts[{index}]: the learning rates of {part.keywords['option']} depend on "
            "a metric, so they aren't known in advance; use it without a chain"
        )
    rates_by_step = [schedule.get_last_lr()]
    for _ in range(length):
        schedule.step()
        rates_by_step.append(schedule.get_last_lr())
    return [[scale * float(rate) for rate in rates] for rates in zip(*rates_by_step, strict=True)]


@check(chained)
def check_chained(planned: PlannedRun, *, parts: list[ChainPart]) -> Iterator[str]:
    """Each part must begin before the run ends, and be longer than its warm-up."""
    starts = [0, *accumulate(part.keywords["length"] for part in parts[:-1])]
    total = planned.scheduler_steps
    late = next((index for index, start in enumerate(starts) if start >= total), None)
    if late is not None:
        yield (
            f"scheduler.parts[{late}] begins after "
            f"{format_scheduler_steps(planned, starts[late])}, but the run has "
            f"{format_scheduler_steps(planned, total)}, so it would never begin; use a shorter "
            "length before it, or more epochs"
        )
        return
    for index, (part, length) in enumerate(zip(parts, _part_lengths(parts, total), strict=True)):
        key = warmup_setting.find(part)
        share = part.keywords[key] if key else 0.0
        if length - 1 < share * length:
            yield (
                f"scheduler.parts[{index}].{key} is {share:g}, but the part has "
                f"{format_scheduler_steps(planned, length)}, so it would end during the warm-up; "
                f"use scheduler.per=step, a smaller {key}, or a longer part"
            )
    if warmup_setting.find(parts[0]) and planned.spec.options["warmup"] != "none":
        yield (
            f"{planned.choice('warmup')} doesn't go with scheduler.parts[0], "
            f"{parts[0].keywords['option']}, which has its own warm-up; use warmup=none, or "
            "another option there"
        )


@describe(chained)
def describe_chained(planned: PlannedRun, *, parts: list[ChainPart]) -> str:
    """Returns the length of each part, and of an epoch."""
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
