"""Tracking: called once as `tracking(output_dir, **settings) -> Tracking`; where runs are sent.

`output_dir` is the absolute path of the outputs folder. With any option, runs are recorded in the
journal in that folder first, from which they are sent to MLflow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

ExperimentName = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class Tracking:
    uri: str | None
    """MLflow's tracking URI; None: nothing is sent to MLflow."""
    experiment: str = "recipe"
    artifacts: str | None = None
    """Root URI for the artifacts of a new experiment; None leaves it to the server."""
