"""A dimension of a search: a setting with its values, from Hydra's grammar for sweeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, RangeSweep

from recipe.config.overrides import SELECTABLE_GROUPS

TAGS = {"log", "int"}


@dataclass(frozen=True)
class Dimension:
    """One of several options, or numbers from `low` to `high`, both included; integers if these
    are integers."""

    key: str
    typed: str
    options: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False
    step: float | None = None

    @property
    def is_integer(self) -> bool:
        return isinstance(self.low, int)

    @property
    def boundary_overrides(self) -> Sequence[str]:
        """All options, or the lowest and the highest number."""
        return [self.to_override(value) for value in self.options or (self.low, self.high)]

    @property
    def middle_override(self) -> str:
        """A valid value halfway between the ends."""
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
        return f"{self.key}={value if isinstance(value, str) else repr(value)}"

    def format_value(self, value: Any) -> str:
        """The override with three digits."""
        return f"{self.key}={value:.3g}" if isinstance(value, float) else f"{self.key}={value}"


def load_dimensions(metadata: Mapping[str, Any]) -> list[Dimension]:
    """The dimensions recorded in a sweep.json."""
    recorded = metadata["search"]["dimensions"]
    return [Dimension(**{**each, "options": tuple(each["options"])}) for each in recorded]


def parse_dimension(override: Override) -> Dimension:
    """Raises ValueError if the override can't be searched."""
    value, key = override.value(), override.get_key_element()
    tags = set(getattr(value, "tags", ()))
    if unknown := sorted(tags - TAGS):
        raise ValueError(f"tag {unknown[0]} means nothing here; there are {' and '.join(TAGS)}")
    if getattr(value, "shuffle", False):
        raise ValueError("the sampler of a search chooses the order; leave shuffle out")
    if isinstance(value, ChoiceSweep | Glob):
        return _parse_choice(override, key, tags)
    if override.key_or_group in SELECTABLE_GROUPS:
        raise ValueError(f"name the options, {key}=<one>,<other>")
    if isinstance(value, RangeSweep):
        return _parse_range(override, key, tags)
    assert isinstance(value, IntervalSweep)
    low, high = value.start, value.end
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
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
    is_integer = isinstance(value.start, int) and isinstance(value.step, int)
    numbers = [int(text) if is_integer else float(text) for text in texts]
    low, high = min(numbers), max(numbers)
    _check_log(tags, low)
    step = abs(value.step)
    if "log" in tags and not (is_integer and step == 1):
        raise ValueError("by ratios there are no steps; use tag(log, interval(...))")
    if "int" in tags and not is_integer:
        raise ValueError("it has values that aren't integers; leave tag int out")
    return Dimension(key, override.input_line, low=low, high=high, log="log" in tags, step=step)


def _check_log(tags: set[str], low: float) -> None:
    if "log" in tags and low <= 0:
        raise ValueError(f"by ratios (tag log) it must begin above 0, got {low:g}")
