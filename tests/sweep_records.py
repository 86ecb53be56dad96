"""What a sweep leaves in its folders and in MLflow."""

from __future__ import annotations

from pathlib import Path

import commands
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from recipe.store import run_dirs


def sweep_folder(folder: Path) -> Path:
    (found,) = (folder / "outputs" / "sweeps").glob("*")
    return found


def mlflow_runs(folder: Path) -> tuple[Run, dict[str, Run]]:
    """The parent run, and its children by name."""
    client = MlflowClient(f"sqlite:///{folder}/outputs/mlflow.db")
    found = client.search_runs(["1"])
    (parent,) = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    children = {
        str(run.info.run_name): run
        for run in found
        if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    }
    assert len(children) == len(found) - 1
    return parent, children


def names_and_states(folder: Path) -> list[tuple[str, str]]:
    lines = commands.read_lines(sweep_folder(folder) / "jobs.jsonl")
    return [(line["name"], line["status"]) for line in lines]


def run_folder(folder: Path, name: str) -> Path:
    (found,) = [run for run in commands.run_dirs(folder)
                if commands.read_json(run / "run.json")["name"] == name]  # fmt: skip
    return found


def statuses(folder: Path) -> list[str]:
    return [run_dirs.read_info(run, "run").status for run in commands.run_dirs(folder)]
