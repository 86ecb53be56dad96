"""What the runs recorded here say of a trick: pairs that differ in it and in nothing else."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from recipe.compare import pairs, selection
from recipe.compare.metric_unit import MetricUnit
from recipe.compare.variants import IGNORED_GROUPS, IGNORED_SETTINGS
from recipe.config import option_files
from recipe.evidence import statistics
from recipe.formatting import pluralize
from recipe.store import results
from recipe.store.results import RunResult

ACCURACY_UNIT = MetricUnit("val/accuracy")

SharedSettings = tuple[tuple[str, str], ...]
"""Everything that two runs of a pair have alike, but the seed."""


@dataclass(frozen=True)
class TrickEvidence:
    """Of one option against its group's "off"."""

    differences: Sequence[float]
    """With it less without it, one a pair of runs."""
    num_specs: int
    """How many different specs the pairs are of."""
    clipped_fraction: float | None
    """The share of steps on which a clip bit."""
    no_effect_pairs: int
    """Pairs in which the audit saw no effect."""

    @property
    def summary(self) -> str:
        """`7 paired runs: +0.10 points, -0.30 to +0.50`."""
        found = ACCURACY_UNIT.clip_interval(statistics.t_interval(self.differences), minimum=-1.0)
        said = f"{pluralize(found.n, 'paired run')}: {ACCURACY_UNIT.format_change(found.mean)}{ACCURACY_UNIT.points_suffix}"
        if math.isnan(found.low) or found.sd == 0:
            return said
        return f"{said}, {ACCURACY_UNIT.format_change(found.low)} to {ACCURACY_UNIT.format_change(found.high)}"

    @property
    def description(self) -> str:
        said = f"{self.summary} of {ACCURACY_UNIT.metric}"
        if self.clipped_fraction is not None:
            said += f"; bit on {100 * self.clipped_fraction:.0f} % of steps"
        if self.num_specs > 1:
            said += f"; pooled over {self.num_specs} different specs"
        if self.no_effect_pairs:
            said += f"; it had no effect in {self.no_effect_pairs} of them"
        return f"{said}. No verdict: python -m recipe compare gives those, sweep by sweep."


def collect_evidence(outputs: Path) -> dict[str, TrickEvidence]:
    """By `group=option`, of every trick that there are pairs of."""
    finished = [
        run
        for run in results.read_results(outputs)
        if run.status == "FINISHED"
        and run.settings
        and not selection.get_exclusion_reason(run)
        and math.isfinite(run.last.get(ACCURACY_UNIT.metric, math.nan))
    ]
    found: dict[str, list[tuple[SharedSettings, RunResult, RunResult]]] = defaultdict(list)
    for group, off in option_files.OFF_OPTIONS.items():
        for setup, one, other in _iter_pairs(finished, group, off):
            found[f"{group}={one.settings[group]}"].append((setup, one, other))
    return {label: _compute_evidence(label, some) for label, some in found.items()}


def _iter_pairs(
    finished: Sequence[RunResult], group: str, off: str
) -> Iterator[tuple[SharedSettings, RunResult, RunResult]]:
    """With it, and without. Of runs of one spec and seed the latest counts."""
    with_it: dict[tuple[SharedSettings, tuple[str, ...]], dict[str, RunResult]] = defaultdict(dict)
    without: dict[SharedSettings, dict[str, RunResult]] = defaultdict(dict)
    for run in finished:
        setup = _get_shared_settings(run.settings, group)
        if run.settings.get(group) == off:
            without[setup][run.seed] = run
        elif group in run.settings:
            own = tuple(f"{k}={v}" for k, v in run.settings.items() if _is_in_group(k, group))
            with_it[setup, own][run.seed] = run
    for (setup, _), some in with_it.items():
        others = without.get(setup, {})
        for seed in pairs.pair_runs(some, others, ACCURACY_UNIT)[0]:
            yield setup, some[seed], others[seed]


def _get_shared_settings(settings: Mapping[str, str], group: str) -> SharedSettings:
    return tuple(
        sorted(
            (key, value)
            for key, value in settings.items()
            if not _is_in_group(key, group)
            and key.partition(".")[0] not in IGNORED_GROUPS
            and key not in IGNORED_SETTINGS
        )
    )


def _is_in_group(key: str, group: str) -> bool:
    return key.partition(".")[0] == group


def _compute_evidence(
    label: str, found: Sequence[tuple[SharedSettings, RunResult, RunResult]]
) -> TrickEvidence:
    about = pairs.summarize_trick(label, [one for _, one, _ in found])
    return TrickEvidence(
        [ACCURACY_UNIT.get_value(one) - ACCURACY_UNIT.get_value(other) for _, one, other in found],
        len({setup for setup, _, _ in found}),
        about.clipped_fraction,
        about.num_no_effect_runs,
    )
