"""What the runs recorded here say of a trick: pairs that differ in it and in nothing else."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from recipe.compare import pairs, selection
from recipe.compare.metric_unit import Unit
from recipe.compare.variants import PLACES, SPARED
from recipe.config import option_files
from recipe.evidence import statistics
from recipe.formatting import counted
from recipe.store import results
from recipe.store.results import Result

UNIT = Unit("val/accuracy")

Setup = tuple[tuple[str, str], ...]
"""Everything that two runs of a pair have alike, but the seed."""


@dataclass(frozen=True)
class Evidence:
    """Of one option against its group's "off"."""

    differences: Sequence[float]
    """With it less without it, one a pair of runs."""
    setups: int
    """How many different specs the pairs are of."""
    bites: float | None
    """The share of steps on which a clip bit."""
    idle: int
    """Pairs in which the audit saw no effect."""

    @property
    def short(self) -> str:
        """`7 paired runs: +0.10 points, -0.30 to +0.50`."""
        found = UNIT.possible(statistics.interval(self.differences), least=-1.0)
        said = f"{counted(found.n, 'paired run')}: {UNIT.change(found.mean)}{UNIT.points}"
        if math.isnan(found.low) or found.sd == 0:
            return said
        return f"{said}, {UNIT.change(found.low)} to {UNIT.change(found.high)}"

    @property
    def sentence(self) -> str:
        said = f"{self.short} of {UNIT.metric}"
        if self.bites is not None:
            said += f"; bit on {100 * self.bites:.0f} % of steps"
        if self.setups > 1:
            said += f"; pooled over {self.setups} different specs"
        if self.idle:
            said += f"; it had no effect in {self.idle} of them"
        return f"{said}. No verdict: python -m recipe compare gives those, sweep by sweep."


def of_options(outputs: Path) -> dict[str, Evidence]:
    """By `group=option`, of every trick that there are pairs of."""
    finished = [
        run
        for run in results.read_all(outputs)
        if run.status == "FINISHED"
        and run.settings
        and not selection.apart(run)
        and math.isfinite(run.last.get(UNIT.metric, math.nan))
    ]
    found: dict[str, list[tuple[Setup, Result, Result]]] = defaultdict(list)
    for group, off in option_files.OFF.items():
        for setup, one, other in _pairs(finished, group, off):
            found[f"{group}={one.settings[group]}"].append((setup, one, other))
    return {label: _evidence(label, some) for label, some in found.items()}


def _pairs(
    finished: Sequence[Result], group: str, off: str
) -> Iterator[tuple[Setup, Result, Result]]:
    """With it, and without. Of runs of one spec and seed the latest counts."""
    with_it: dict[tuple[Setup, tuple[str, ...]], dict[str, Result]] = defaultdict(dict)
    without: dict[Setup, dict[str, Result]] = defaultdict(dict)
    for run in finished:
        setup = _setup(run.settings, group)
        if run.settings.get(group) == off:
            without[setup][run.seed] = run
        elif group in run.settings:
            own = tuple(f"{k}={v}" for k, v in run.settings.items() if _is_of(k, group))
            with_it[setup, own][run.seed] = run
    for (setup, _), some in with_it.items():
        others = without.get(setup, {})
        for seed in pairs.pair(some, others, UNIT)[0]:
            yield setup, some[seed], others[seed]


def _setup(settings: Mapping[str, str], group: str) -> Setup:
    return tuple(
        sorted(
            (key, value)
            for key, value in settings.items()
            if not _is_of(key, group) and key.partition(".")[0] not in SPARED and key not in PLACES
        )
    )


def _is_of(key: str, group: str) -> bool:
    return key.partition(".")[0] == group


def _evidence(label: str, found: Sequence[tuple[Setup, Result, Result]]) -> Evidence:
    about = pairs.about(label, [one for _, one, _ in found])
    return Evidence(
        [UNIT.of(one) - UNIT.of(other) for _, one, other in found],
        len({setup for setup, _, _ in found}),
        about.bites,
        about.idle,
    )
