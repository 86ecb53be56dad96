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
    """A mean and the bounds of its interval; `sd` is the values' sample standard deviation, with
    n - 1 in the denominator."""

    mean: float
    low: float
    high: float
    n: int
    sd: float


def t_interval(values: Sequence[float], level: float = 0.95) -> ConfidenceInterval:
    """Student's t interval of a mean: mean +- t * sd / sqrt(n), n - 1 degrees of freedom.

    For normal values its coverage is `level`, for any n. For a single value, low, high and sd are
    NaN; for equal values, the interval is that point. Raises ValueError for no values, or one that
    is not finite. Source: Student 1908.
    """
    check_fraction("level", level)
    found = to_finite_array(values)
    n = len(found)
    if n == 0:
        raise ValueError("an interval needs at least one value")
    if n == 1:
        return ConfidenceInterval(float(found[0]), math.nan, math.nan, 1, math.nan)
    if np.all(found == found[0]):  # numpy's mean may differ in its last bit
        point = float(found[0])
        return ConfidenceInterval(point, point, point, n, 0.0)
    mean, sd = float(found.mean()), float(found.std(ddof=1))
    half_width = float(stdtrit(n - 1, (1 + level) / 2)) * sd / math.sqrt(n)
    return ConfidenceInterval(mean, mean - half_width, mean + half_width, n, sd)


def t_interval_bounds(rows: FloatArray, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
    """The bounds of `t_interval` for each row, ignoring NaNs; NaN with fewer than two values.

    `rows` has shape (rows, values); returns low and high, each of shape (rows,).
    """
    finite = np.isfinite(rows)
    n = finite.sum(axis=1)
    count = np.maximum(n, 2)
    mean = np.where(finite, rows, 0).sum(axis=1) / count
    deviations = np.where(finite, rows - mean[:, None], 0)
    sd = np.sqrt((deviations**2).sum(axis=1) / (count - 1))
    half_width = stdtrit(count - 1, (1 + level) / 2) * sd / np.sqrt(count)
    mean = np.where(n >= 2, mean, np.nan)
    return mean - half_width, mean + half_width


def to_finite_array(values: Sequence[float]) -> FloatArray:
    found = np.asarray(values, dtype=np.float64)
    if not np.isfinite(found).all():
        raise ValueError(f"values must be finite, got {found[~np.isfinite(found)][0]}")
    return found


def check_fraction(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} must be between 0 and 1, got {value}")
