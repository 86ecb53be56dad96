"""An MLflow server, which also stores the artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from recipe.components.tracking import ExperimentName, Tracking
from recipe.config import credentials

ServerURI = Annotated[
    str, Field(pattern=r"^https?://[^/]"), AfterValidator(credentials.check_no_credentials)
]


def server(output_dir: Path, *, uri: ServerURI, experiment: ExperimentName) -> Tracking:
    return Tracking(uri=uri, experiment=experiment)
