"""A metric as people read it: accuracies in percentage points, which way is better."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from recipe.evidence.statistics import Interval
from recipe.store.results import Result

QUALITY = ("val/", "train/", "best/val_accuracy")
"""How the names of those metrics begin of which one direction is better. Of others, such as seconds
or learning rates, which one is depends on what is wanted."""

IN_TRAINING = "train/"

TO_SEE = 0.5
"""Points of accuracy that are worth seeing."""


@dataclass(frozen=True)
class Unit:
    metric: str

    @property
    def is_share(self) -> bool:
        return self.metric.endswith("accuracy")

    @property
    def is_loss(self) -> bool:
        return self.metric.endswith("loss")

    @property
    def sign(self) -> int:
        """1: more is better, -1: less is; 0: neither is by itself."""
        return 0 if not self.metric.startswith(QUALITY) else -1 if self.is_loss else 1

    @property
    def is_training(self) -> bool:
        """Whether it is measured in training, on the batches as they are trained on."""
        return self.metric.startswith(IN_TRAINING)

    def of(self, run: Result) -> float:
        return run.last[self.metric]

    def possible(self, interval: Interval, least: float = 0.0) -> Interval:
        """Cut at what there can be: a share is from `least` to 1."""
        if not self.is_share:
            return interval
        low, high = max(interval.low, least), min(interval.high, 1.0)  # in this order NaN stays
        return replace(interval, low=low, high=high)

    @property
    def axis(self) -> str:
        return f"{self.metric} (%)" if self.is_share else self.metric

    @property
    def difference(self) -> str:
        """The unit of differences, for an axis."""
        return f"change of {self.metric} ({'points' if self.is_share else 'in its own unit'})"

    def scaled(self, value: float) -> float:
        return 100 * value if self.is_share else value

    def shown(self, value: float) -> str:
        """`96.12 %`, or four significant digits."""
        if math.isnan(value):
            return "-"
        return f"{100 * value:.2f} %" if self.is_share else f"{value:.4g}"

    def span(self, low: float, high: float) -> str:
        return "-" if math.isnan(low) else f"{self.shown(low)} to {self.shown(high)}"

    def change(self, value: float) -> str:
        """With its sign: `+0.41`. Exactly zero has none."""
        if value == 0:
            return "0"
        return f"{100 * value:+.2f}" if self.is_share else f"{value:+.4g}"

    @property
    def points(self) -> str:
        return " points" if self.is_share else ""

    def worth_seeing(self, baseline: float) -> tuple[float, str]:
        """A difference that is worth seeing: half a point, or 1 % of the baseline's mean."""
        if self.is_share:
            return TO_SEE / 100, f"{TO_SEE:g} points"
        return abs(baseline) / 100, f"{abs(baseline) / 100:.3g} (1 % of the baseline's)"
