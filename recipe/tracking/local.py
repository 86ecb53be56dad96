"""MLflow's sqlite database and artifact folder, below the outputs."""

from __future__ import annotations

from pathlib import Path

from recipe.tracking import Experiment, Tracking


def local(output_dir: Path, *, experiment: Experiment) -> Tracking:
    """`mlflow.db` and `mlartifacts/` in output_dir, as absolute URIs."""
    return Tracking(
        uri=f"sqlite:///{output_dir / 'mlflow.db'}",
        experiment=experiment,
        artifacts=(output_dir / "mlartifacts").as_uri(),
    )
