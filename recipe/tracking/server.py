"""An MLflow server, which keeps the artifacts as well."""

from __future__ import annotations

from pathlib import Path

from recipe.tracking import Tracking


def server(output_dir: Path, *, uri: str, experiment: str) -> Tracking:
    """Raises ValueError for an address that is none."""
    if not uri.startswith(("http://", "https://")):
        raise ValueError(f"tracking.uri must begin with http:// or https://, got {uri}")
    return Tracking(uri=uri, experiment=experiment)
