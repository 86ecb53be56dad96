"""What was found of one trick: its differences over seeds, their test, and a verdict."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from recipe.compare.variants import Levels
from recipe.evidence.statistics import Interval

LEVEL = 0.05
"""What p may be at most, of a trick that is shown to help or hurt."""

Question = Literal[
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
    question: Question
    of: Collection[Levels] = ()
    """The variants that were set side by side."""
    kept: str = ""
    """What the trick was on top of, where only some of the others were."""
    seeds: Sequence[str] = ()
    differences: Sequence[float] = ()
    """With the trick less without it, in the metric's own unit, one a seed."""
    unpaired: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Why runs of these seeds could not be paired."""
    idle: int = 0
    """Runs in which the audit saw no effect of the trick."""
    runs: int = 0
    """Runs with the trick."""
    whose: str = ""
    """The trick that the two are about, if it is another one: what the baseline has, where this is
    to have none of it; or one of two."""
    slower: Interval | None = None
    """Seconds of an epoch with it over those without: the geometric mean over the seeds."""
    bites: float | None = None
    """The share of steps on which a clip bit."""
    interval: Interval | None = None
    raw_p: float | None = None
    """Of the sign-flip test by itself."""
    p: float | None = None
    """Corrected by Holm over `tests` of this question."""
    tests: int = 1
    least: int = 0
    """Seeds with which a verdict is possible, whatever the other tricks of the question show."""
    verdict: Verdict = "unpaired"

    @property
    def label(self) -> str:
        """The trick, and what it was on top of."""
        return f"{self.trick} on {self.kept}" if self.kept else self.trick

    @property
    def did_nothing(self) -> bool:
        return bool(self.runs) and self.idle == self.runs
