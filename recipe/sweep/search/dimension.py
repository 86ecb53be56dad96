"""One searched setting: what it may be, of Hydra's grammar for sweeps, and what Optuna is told."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, RangeSweep

from recipe.config.overrides import SELECTABLE_GROUPS

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

TAGS = {"log", "int"}
"""What a tag(...) may say: by ratios instead of differences; whole numbers only."""


@dataclass(frozen=True)
class Dimension:
    key: str
    """As an override has it."""
    typed: str
    options: tuple[str, ...] = ()
    """Of a choice; a range of numbers has none."""
    low: float = 0
    high: float = 0
    """Both may be taken. Two ints: whole numbers only."""
    log: bool = False
    step: float | None = None

    @property
    def is_integer(self) -> bool:
        return isinstance(self.low, int)

    @property
    def boundary_overrides(self) -> Sequence[str]:
        """Overrides between which all others lie; of a choice every one."""
        values = self.options or (self.low, self.high)
        return [self.to_override(value) for value in values]

    @property
    def middle_override(self) -> str:
        """An override between the ends, one that may be taken."""
        if self.options:
            return self.to_override(self.options[len(self.options) // 2])
        middle = (
            math.sqrt(self.low) * math.sqrt(self.high) if self.log else (self.low + self.high) / 2
        )
        step = 1 if self.is_integer and self.step is None else self.step
        if step is not None:
            middle = self.low + (middle - self.low) // step * step
        return self.to_override(int(middle) if self.is_integer else middle)

    def to_override(self, value: Any) -> str:
        """What gives the setting a value that Optuna chose."""
        return f"{self.key}={value if isinstance(value, str) else repr(value)}"

    def format_value(self, value: Any) -> str:
        """As `override`, for people: three digits."""
        message = f"{value:.3g}" if isinstance(value, float) else value
        return f"{self.key}={message}"

    def to_distribution(self) -> BaseDistribution:
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.options:
            return CategoricalDistribution(self.options)
        if self.is_integer:
            step = 1 if self.step is None else int(self.step)
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=step)
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)


def load_dimensions(metadata: Mapping[str, Any]) -> list[Dimension]:
    """Those of a search, as its sweep.json tells."""
    message = metadata["search"]["dimensions"]
    return [Dimension(**{**each, "options": tuple(each["options"])}) for each in message]


def parse_dimension(override: Override) -> Dimension:
    """Raises ValueError for what can't be searched, with the rule and a way out."""
    value, key = override.value(), override.get_key_element()
    tags = set(getattr(value, "tags", ()))
    if unknown := sorted(tags - TAGS):
        raise ValueError(f"tag {unknown[0]} means nothing here; there are {' and '.join(TAGS)}")
    if getattr(value, "shuffle", False):
        raise ValueError("a search has an order of its own; leave shuffle out")
    if isinstance(value, ChoiceSweep | Glob):
        return _parse_choice(override, key, tags)
    if override.key_or_group in SELECTABLE_GROUPS:
        raise ValueError(f"name the options, {key}=<one>,<other>")
    if isinstance(value, RangeSweep):
        return _parse_range(override, key, tags)
    assert isinstance(value, IntervalSweep)
    low, high = value.start, value.end
    if not (_is_finite(low) and _is_finite(high) and low < high):
        raise ValueError(f"from {low:g} to {high:g} is no interval; give the lower end first")
    if "int" in tags:
        if low != int(low) or high != int(high):
            raise ValueError("the ends of an interval of integers are integers; leave tag int out")
        low, high = int(low), int(high)
    _check_log(tags, low)
    return Dimension(key, override.input_line, low=low, high=high, log="log" in tags)


def _parse_choice(override: Override, key: str, tags: set[str]) -> Dimension:
    options = tuple(dict.fromkeys(override.sweep_string_iterator()))
    if tags:
        raise ValueError(f"tag {sorted(tags)[0]} is for numbers in interval(...) or range(...)")
    if len(options) < 2:
        raise ValueError("there is nothing to choose from; give two values at least, or one alone")
    return Dimension(key, override.input_line, options)


def _parse_range(override: Override, key: str, tags: set[str]) -> Dimension:
    value: Any = override.value()
    texts = list(override.sweep_string_iterator())
    if len(texts) < 2:
        raise ValueError(f"there are {len(texts)} values in it; give two at least, or one alone")
    whole = isinstance(value.start, int) and isinstance(value.step, int)
    numbers = [int(text) if whole else float(text) for text in texts]
    low, high = min(numbers), max(numbers)
    _check_log(tags, low)
    step = abs(value.step)
    if "log" in tags and not (whole and step == 1):
        raise ValueError("by ratios there are no steps; use tag(log, interval(...))")
    if "int" in tags and not whole:
        raise ValueError("it has values that aren't integers; leave tag int out")
    return Dimension(key, override.input_line, low=low, high=high, log="log" in tags, step=step)


def _check_log(tags: set[str], low: float) -> None:
    if "log" in tags and low <= 0:
        raise ValueError(f"by ratios (tag log) it must begin above 0, got {low:g}")


def _is_finite(number: float) -> bool:
    return math.isfinite(number)
