"""Main effects and interactions in a factorial plan."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

from recipe.evidence.intervals import to_finite_array

FactorialBlock = Mapping[frozenset[str], float]
"""The results of one seed, by the tricks that were on."""


def compute_main_effects(
    blocks: Sequence[FactorialBlock], groups: Sequence[Sequence[str]]
) -> dict[str, list[float]]:
    """Of each trick in a factorial plan, seed by seed: the mean with it less the mean without it.

    `groups` are the tricks of which at most one can be on at a time. Yates (1937): each run with
    the trick counts, against the run that lacks nothing but it; so do those without any trick of
    its group, while those with another one of the group tell nothing. Raises ValueError for a block
    that isn't complete.
    """
    _check_blocks(blocks, groups)
    tricks = list(itertools.chain(*groups))
    return {
        trick: [
            _mean(value - block[on - {trick}] for on, value in block.items() if trick in on)
            for block in blocks
        ]
        for trick in tricks
    }


def compute_interactions(
    blocks: Sequence[FactorialBlock], groups: Sequence[Sequence[str]]
) -> dict[tuple[str, str], list[float]]:
    """Of each two tricks a and b in a factorial plan that can be on together, seed by seed: the
    effect of a with b on less its effect with b off, each averaged over the other tricks.

    0 if they add up; a and b may change places. (Some books halve it.) `groups` as of
    `compute_main_effects`. Raises ValueError for a block that isn't complete.
    """
    _check_blocks(blocks, groups)
    pairs = [pair for two in itertools.combinations(groups, 2) for pair in itertools.product(*two)]
    return {
        (a, b): [
            _mean(
                (value - block[on - {a}]) - (block[on - {b}] - block[on - {a, b}])
                for on, value in block.items()
                if a in on and b in on
            )
            for block in blocks
        ]
        for a, b in pairs
    }


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return math.fsum(found) / len(found)


def _check_blocks(blocks: Sequence[FactorialBlock], groups: Sequence[Sequence[str]]) -> None:
    tricks = list(itertools.chain(*groups))
    if not tricks or len(set(tricks)) < len(tricks):
        raise ValueError(f"tricks must be one or more, each named once, got {tricks}")
    of_each = [[(), *((trick,) for trick in group)] for group in groups]
    wanted = {frozenset(itertools.chain(*on)) for on in itertools.product(*of_each)}
    for number, block in enumerate(blocks):
        if wrong := wanted ^ set(block):
            first = min(map(sorted, wrong), key=lambda names: (len(names), names))
            what = "lacks" if frozenset(first) in wanted else "has, beside the tricks,"
            raise ValueError(f"block {number} {what} {' + '.join(first) or 'no trick at all'}")
        to_finite_array(list(block.values()))
