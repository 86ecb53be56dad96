"""The pictures of a report, as PNG files: effects, what they cost, learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recipe.compare.figures.forest import Effect, forest_figure
from recipe.compare.figures.learning_curves import Band, curves_figure
from recipe.compare.figures.pareto import Spot, pareto_figure
from recipe.compare.figures.style import save

__all__ = ["Band", "Effect", "Spot", "curves", "forest", "pareto"]


def forest(path: Path, effects: Sequence[Effect], *, unit: str, title: str) -> Path:
    """Every effect with its interval beside zero; `unit` stands under the axis."""
    return save(forest_figure(effects, unit=unit, title=title), path)


def pareto(path: Path, points: Sequence[Spot], *, cost: str, value: str, title: str) -> Path:
    """Value against cost, the names of the axes given, with the efficient ones joined."""
    return save(pareto_figure(points, cost=cost, value=value, title=title), path)


def curves(path: Path, bands: Sequence[Band], *, label: str, title: str) -> Path:
    """Means over epochs with their bands; `label` stands beside the axis."""
    return save(curves_figure(bands, label=label, title=title), path)
