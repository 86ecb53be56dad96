"""Confidence intervals of means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ConfidenceInterval:
    """A mean, and where the true one lies; in the unit of the values."""

    mean: float
    low: float
    high: float
    n: int
    sd: float
    """Standard deviation of a single value, with n - 1 in its denominator."""


def t_interval(values: Sequence[float], level: float = 0.95) -> ConfidenceInterval:
    """Student's t interval (Student 1908) of a mean: mean +- t * sd / sqrt(n), n - 1 degrees.

    It covers the true mean in a share `level` of all cases if the values are normal, even with few
    of them. Of a single value nothing but itself is known: low, high and sd are nan. Values that
    are all equal give that point. Raises ValueError if there is none, or one is not finite.
    """
    check_fraction("level", level)
    found = to_finite_array(values)
    n = len(found)
    if n == 0:
        raise ValueError("no interval without values")
    if n == 1:
        return ConfidenceInterval(float(found[0]), math.nan, math.nan, 1, math.nan)
    if np.all(found == found[0]):  # of which numpy's mean may differ in its last bit
        point = float(found[0])
        return ConfidenceInterval(point, point, point, n, 0.0)
    mean, sd = float(found.mean()), float(found.std(ddof=1))
    reach = float(stdtrit(n - 1, (1 + level) / 2)) * sd / math.sqrt(n)
    return ConfidenceInterval(mean, mean - reach, mean + reach, n, sd)


def t_interval_bounds(rows: FloatArray, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
    """The ends of `t_interval` of every row, NaNs in it left out; NaN where fewer than two are
    left.

    Shape (rows, values) becomes two of (rows,).
    """
    there = np.isfinite(rows)
    n = there.sum(axis=1)
    enough = np.maximum(n, 2)
    mean = np.where(there, rows, 0).sum(axis=1) / enough
    apart = np.where(there, rows - mean[:, None], 0)
    sd = np.sqrt((apart**2).sum(axis=1) / (enough - 1))
    reach = stdtrit(enough - 1, (1 + level) / 2) * sd / np.sqrt(enough)
    known = np.where(n >= 2, 0.0, np.nan)
    return mean - reach + known, mean + reach + known


def to_finite_array(values: Sequence[float]) -> FloatArray:
    found = np.asarray(values, dtype=np.float64)
    if not np.isfinite(found).all():
        raise ValueError(f"values must be finite, got {found[~np.isfinite(found)][0]}")
    return found


def check_fraction(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} must be between 0 and 1, got {value}")
