"""What was found of one trick: its differences over seeds, their test, and a verdict."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from recipe.compare.variants import Levels
from recipe.evidence.intervals import ConfidenceInterval

SIGNIFICANCE_LEVEL = 0.05
"""What p may be at most, of a trick that is shown to help or hurt."""

Contrast = Literal[
    "alone", "on top of the others", "on top of what was kept", "on average", "together"
]
"""`alone`: the trick against the baseline. `on top of the others`: the full set against the full
set without it. `on top of what was kept`: in the later rounds of a greedy plan. `on average`, over
everything else, in a factorial plan; `together`: by how much the effect of one is larger where the
other is on."""

Verdict = Literal["helps", "hurts", "up", "down", "open", "too few", "no effect", "unpaired"]
"""`up` and `down`: shown to change what is neither better nor worse by itself."""


@dataclass(frozen=True)
class Finding:
    trick: str
    contrast: Contrast
    compared_levels: Collection[Levels] = ()
    """The variants that were set side by side."""
    kept_tricks: str = ""
    """What the trick was on top of, where only some of the others were."""
    seeds: Sequence[str] = ()
    differences: Sequence[float] = ()
    """With the trick less without it, in the metric's own unit, one a seed."""
    unpaired_seeds: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Why runs of these seeds could not be paired."""
    num_no_effect_runs: int = 0
    """Runs in which the audit saw no effect of the trick."""
    num_runs: int = 0
    """Runs with the trick."""
    audited_trick: str = ""
    """The trick that the two are about, if it is another one: what the baseline has, where this is
    to have none of it; or one of two."""
    time_ratio: ConfidenceInterval | None = None
    """Seconds of an epoch with it over those without: the geometric mean over the seeds."""
    clipped_fraction: float | None = None
    """The share of steps on which a clip bit."""
    interval: ConfidenceInterval | None = None
    raw_p_value: float | None = None
    """Of the sign-flip test by itself."""
    corrected_p_value: float | None = None
    """Corrected by Holm over `tests` of this question."""
    num_tests: int = 1
    min_seeds: int = 0
    """Seeds with which a verdict is possible, whatever the other tricks of the question show."""
    verdict: Verdict = "unpaired"

    @property
    def label(self) -> str:
        """The trick, and what it was on top of."""
        return f"{self.trick} on {self.kept_tricks}" if self.kept_tricks else self.trick

    @property
    def has_no_effect(self) -> bool:
        return bool(self.num_runs) and self.num_no_effect_runs == self.num_runs
