"""`recipe ui`: MLflow's page of the recorded runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from rich.console import Console

from recipe import compose
from recipe.arguments import key_values
from recipe.errors import SpecError


def ui(arguments: Sequence[str], console: Console) -> NoReturn:
    """Replaces this process by MLflow's server. Raises SpecError where nothing is recorded."""
    values = key_values("ui", arguments, {"port": "5000", "output_dir": "", "host": "127.0.0.1"})
    outputs = compose.outputs(values["output_dir"])
    database = outputs / "mlflow.db"
    if not database.is_file():
        raise SpecError(f"output_dir: there is no {database}; record a run first: python -m recipe")
    if not values["port"].isdigit():
        raise SpecError(f"port must be a number, got {values['port']}")
    print(f"MLflow at http://{values['host']}:{values['port']} (Ctrl-C ends it)", flush=True)
    environment = os.environ | {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command = [
        sys.executable, "-m", "mlflow", "server",
        "--backend-store-uri", f"sqlite:///{database}",
        "--default-artifact-root", (outputs / "mlartifacts").as_uri(),
        "--host", values["host"], "--port", values["port"], "--workers", "1",
    ]  # fmt: skip
    os.execve(sys.executable, command, environment)
