"""No MLflow: runs are recorded only in the journal on disk."""

from __future__ import annotations

from pathlib import Path

from recipe.components.tracking import Tracking


def none(output_dir: Path) -> Tracking:
    return Tracking(uri=None)
