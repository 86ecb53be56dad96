"""The finding about one trick: its differences over seeds, their test, and a verdict."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from recipe.compare.variants import Levels
from recipe.evidence.intervals import ConfidenceInterval

SIGNIFICANCE_LEVEL = 0.05

Contrast = Literal[
    "alone", "on top of the others", "on top of what was kept", "on average", "together"
]
"""`alone`: the trick against the baseline. `on top of the others`: all tricks against all but the
trick. `on top of what was kept`: later rounds of a greedy plan. `on average`: main effect in a
factorial plan; `together`: interaction of two tricks in a factorial plan."""

Verdict = Literal["helps", "hurts", "up", "down", "open", "too few", "no effect", "unpaired"]
"""`up` and `down`: significant, for a metric of which neither direction is better."""


@dataclass(frozen=True)
class Finding:
    trick: str
    contrast: Contrast
    compared_levels: Collection[Levels] = ()
    """The variants that were compared."""
    kept_tricks: str = ""
    """The tricks of the variant that the trick was added to, in later rounds of a greedy plan."""
    seeds: Sequence[str] = ()
    differences: Sequence[float] = ()
    """The metric with the trick minus without it, one per seed."""
    unpaired_seeds: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Seeds without a pair, by reason."""
    num_no_effect_runs: int = 0
    """Runs in which the audit found no effect of the trick."""
    num_runs: int = 0
    """Runs with the trick."""
    audited_trick: str = ""
    """The trick that the previous two are about, if it is another one: that of the baseline if
    this one is an option `off`, or one of two."""
    time_ratio: ConfidenceInterval | None = None
    """Seconds per epoch with the trick relative to those without: geometric mean over seeds."""
    clipped_fraction: float | None = None
    """The fraction of steps whose gradient was clipped."""
    interval: ConfidenceInterval | None = None
    raw_p_value: float | None = None
    corrected_p_value: float | None = None
    """Corrected by Holm's method over `num_tests`."""
    num_tests: int = 1
    min_seeds: int = 0
    """The number of seeds that can give a verdict whatever the other tests find."""
    verdict: Verdict = "unpaired"

    @property
    def label(self) -> str:
        return f"{self.trick} on {self.kept_tricks}" if self.kept_tricks else self.trick

    @property
    def has_no_effect(self) -> bool:
        return bool(self.num_runs) and self.num_no_effect_runs == self.num_runs
