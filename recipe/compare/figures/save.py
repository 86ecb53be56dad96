"""The pictures of a report, as PNG files: effects, what they cost, learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recipe.compare.figures.forest import Effect, plot_forest
from recipe.compare.figures.learning_curves import CurveBand, plot_learning_curves
from recipe.compare.figures.pareto import ParetoPoint, plot_pareto
from recipe.compare.figures.style import save_figure

__all__ = [
    "CurveBand",
    "Effect",
    "ParetoPoint",
    "save_forest_plot",
    "save_learning_curves",
    "save_pareto_plot",
]


def save_forest_plot(path: Path, effects: Sequence[Effect], *, unit: str, title: str) -> Path:
    """Every effect with its interval beside zero; `unit` stands under the axis."""
    return save_figure(plot_forest(effects, unit=unit, title=title), path)


def save_pareto_plot(
    path: Path, points: Sequence[ParetoPoint], *, cost: str, value: str, title: str
) -> Path:
    """Value against cost, the names of the axes given, with the efficient ones joined."""
    return save_figure(plot_pareto(points, cost=cost, value=value, title=title), path)


def save_learning_curves(path: Path, bands: Sequence[CurveBand], *, label: str, title: str) -> Path:
    """Means over epochs with their bands; `label` stands beside the axis."""
    return save_figure(plot_learning_curves(bands, label=label, title=title), path)
