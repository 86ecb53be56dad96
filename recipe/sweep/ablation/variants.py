"""The variants of an ablation: sets of tricks that are on, by plan."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Trick:
    """An option of a group, and the overrides that turn it on and off."""

    group: str
    option: str
    overrides: tuple[str, ...]
    """`clip=norm` and the settings given for it."""
    off: tuple[str, ...]

    @property
    def label(self) -> str:
        return f"{self.group}={self.option}"


Variant = tuple[Trick, ...]
"""The tricks that are on, at most one of a group; in the order of the groups."""

PlanFunction = Callable[[Sequence[Trick]], list[Variant]]

MAX_VARIANTS = 2**8


def add_one(tricks: Sequence[Trick]) -> list[Variant]:
    """The baseline, then each trick alone."""
    return [(), *((trick,) for trick in tricks)]


def leave_one_out(tricks: Sequence[Trick]) -> list[Variant]:
    """The full set, then the full set less each trick."""
    return [tuple(tricks), *(tuple(t for t in tricks if t != left_out) for left_out in tricks)]


def both(tricks: Sequence[Trick]) -> list[Variant]:
    """The variants of `add_one` and of `leave_one_out`, each once."""
    return list(dict.fromkeys([*add_one(tricks), *leave_one_out(tricks)]))


def factorial(tricks: Sequence[Trick]) -> list[Variant]:
    """Every set of tricks, small ones first; of a group with several options at most one is on."""
    levels = [[None, *among] for among in _group_tricks(tricks)]
    made = [tuple(filter(None, chosen)) for chosen in itertools.product(*levels)]
    return sorted(made, key=lambda variant: (len(variant), [tricks.index(t) for t in variant]))


PLANS: dict[str, PlanFunction] = {
    "add_one": add_one,
    "leave_one_out": leave_one_out,
    "both": both,
    "factorial": factorial,
}

FULL_SET_PLANS = ("leave_one_out", "both")
"""Plans in which all tricks may be on at once, so that a group has one option."""


def count_variants(plan: str, tricks: Sequence[Trick]) -> int:
    if plan == "factorial":
        return math.prod(1 + len(among) for among in _group_tricks(tricks))
    return len(PLANS[plan](tricks))


def format_variant(variant: Variant) -> str:
    """The tricks that are on: `freeze=vgg_first2 clip=norm`, or `baseline`."""
    return " ".join(trick.label for trick in variant) or "baseline"


def make_overrides(variant: Variant, tricks: Sequence[Trick]) -> tuple[str, ...]:
    """The overrides of a variant: every group of the tricks, on or off."""
    chosen = {trick.group: trick for trick in variant}
    found: list[str] = []
    for among in _group_tricks(tricks):
        trick = chosen.get(among[0].group)
        found += trick.overrides if trick else among[0].off
    return tuple(found)


def make_jobs_by_seed(
    variants: Sequence[Variant], tricks: Sequence[Trick], seeds: Sequence[str]
) -> list[tuple[str, tuple[str, ...]]]:
    """The name and the overrides of every job, all variants of a seed before the next seed's, so
    that complete blocks exist early; `seeds` are overrides."""
    return [
        (format_variant(variant), (*make_overrides(variant, tricks), seed))
        for seed in seeds
        for variant in variants
    ]


def _group_tricks(tricks: Sequence[Trick]) -> list[list[Trick]]:
    groups = dict.fromkeys(trick.group for trick in tricks)
    return [[trick for trick in tricks if trick.group == group] for group in groups]
