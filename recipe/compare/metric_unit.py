"""The unit of a metric, and which direction is better."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from recipe.evidence.intervals import ConfidenceInterval
from recipe.store.results import RunResult

# of other metrics, such as learning rates, neither direction is better in general
DIRECTED_METRIC_PREFIXES = ("val/", "train/", "best/val_accuracy")

MIN_RELEVANT_POINTS = 0.5


@dataclass(frozen=True)
class MetricUnit:
    metric: str

    @property
    def is_fraction(self) -> bool:
        return self.metric.endswith("accuracy")

    @property
    def is_loss(self) -> bool:
        return self.metric.endswith("loss")

    @property
    def direction(self) -> int:
        """1 if larger is better, -1 if smaller is, 0 if neither is."""
        if not self.metric.startswith(DIRECTED_METRIC_PREFIXES):
            return 0
        return -1 if self.is_loss else 1

    @property
    def is_training_metric(self) -> bool:
        """Whether it is measured on training batches."""
        return self.metric.startswith("train/")

    def get_value(self, result: RunResult) -> float:
        return result.last[self.metric]

    def clip_interval(
        self, interval: ConfidenceInterval, minimum: float = 0.0
    ) -> ConfidenceInterval:
        """Clips the interval of a fraction to [minimum, 1]."""
        if not self.is_fraction:
            return interval
        low, high = max(interval.low, minimum), min(interval.high, 1.0)  # in this order NaN stays
        return replace(interval, low=low, high=high)

    @property
    def axis_label(self) -> str:
        return f"{self.metric} (%)" if self.is_fraction else self.metric

    @property
    def difference_label(self) -> str:
        return f"change of {self.metric}" + " (points)" * self.is_fraction

    def scale_value(self, value: float) -> float:
        return 100 * value if self.is_fraction else value

    def format_value(self, value: float) -> str:
        """`96.12 %`, or four significant digits."""
        if math.isnan(value):
            return "-"
        return f"{100 * value:.2f} %" if self.is_fraction else f"{value:.4g}"

    def format_range(self, low: float, high: float) -> str:
        return "-" if math.isnan(low) else f"{self.format_value(low)} to {self.format_value(high)}"

    def format_change(self, value: float) -> str:
        """`+0.41`; exactly zero has no sign."""
        if value == 0:
            return "0"
        return f"{100 * value:+.2f}" if self.is_fraction else f"{value:+.4g}"

    @property
    def points_suffix(self) -> str:
        return " points" if self.is_fraction else ""

    def get_relevant_difference(self, baseline: float) -> tuple[float, str]:
        """The smallest relevant difference, and its description: half a point, or 1 % of the
        baseline's mean."""
        if self.is_fraction:
            return MIN_RELEVANT_POINTS / 100, f"{MIN_RELEVANT_POINTS:g} points"
        return abs(baseline) / 100, f"{abs(baseline) / 100:.3g} (1 % of the baseline)"
