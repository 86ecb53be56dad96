"""Main effects and interactions of a factorial design."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

from recipe.evidence.intervals import to_finite_array

FactorialBlock = Mapping[frozenset[str], float]
"""The results of one seed, by the set of active tricks."""


def compute_main_effects(
    blocks: Sequence[FactorialBlock], groups: Sequence[Sequence[str]]
) -> dict[str, list[float]]:
    """Returns each trick's main effect per seed: the mean with it minus the mean without it.

    At most one trick of each of the `groups` can be active at a time. After Yates (1937): each run
    with the trick is compared with the run that differs only in the trick's absence; runs with
    another trick of its group are not used. Raises ValueError for an incomplete block.
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
    """Returns the interaction of each two tricks of different groups per seed: the effect of a with
    b minus its effect without b, each averaged over the other tricks.

    It is 0 if the effects are additive, and symmetric in a and b; some books halve it. `groups` as
    in `compute_main_effects`. Raises ValueError for an incomplete block.
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
        raise ValueError(f"tricks must be non-empty and unique, got {tricks}")
    choices = [[(), *((trick,) for trick in group)] for group in groups]
    expected = {frozenset(itertools.chain(*on)) for on in itertools.product(*choices)}
    for number, block in enumerate(blocks):
        if wrong := expected ^ set(block):
            first = min(map(sorted, wrong), key=lambda names: (len(names), names))
            problem = "lacks" if frozenset(first) in expected else "has the unexpected"
            raise ValueError(f"block {number} {problem} variant {' + '.join(first) or 'baseline'}")
        to_finite_array(list(block.values()))
