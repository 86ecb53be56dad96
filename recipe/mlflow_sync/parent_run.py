"""The parent run in MLflow of a sweep's runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recipe.components.tracking import Tracking
from recipe.mlflow_sync.client import connect, describe_error, get_source_tags, has_run, reopen_run
from recipe.store.sweep_record import edit_record, has_unsent_end

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


def get_or_create_parent_run(
    client: MlflowClient, experiment: str, sweep_dir: Path, uri: str
) -> str:
    """Returns its id in MLflow; it is created with the first run of the sweep."""
    with edit_record(sweep_dir) as content:
        known = content.get("uri") == uri and content.get("mlflow_run_id")
        if not known or not has_run(client, known):
            # a process may have been killed before it stored the id
            found = [
                run
                for run in client.search_runs(
                    [experiment], f"tags.`recipe.sweep` = '{sweep_dir.name}'"
                )
                if "mlflow.parentRunId" not in run.data.tags
            ]
            tags = {"recipe.sweep": sweep_dir.name, **get_source_tags()}
            run = (
                found[0]
                if found
                else client.create_run(experiment, run_name=content["name"], tags=tags)
            )
            content["mlflow_run_id"], content["uri"] = run.info.run_id, uri
            content.pop("ended", None)
        elif content.pop("again", False):
            reopen_run(client, content["mlflow_run_id"])
        return str(content["mlflow_run_id"])


def send_sweep_end(tracking: Tracking, outputs: Path, sweep_dir: Path) -> str | None:
    """Sends how the sweep ended. Returns why that failed, if it did."""
    if not has_unsent_end(sweep_dir):
        return None
    try:
        client, _ = connect(tracking, outputs)
        with edit_record(sweep_dir) as content:
            run, ended = content["mlflow_run_id"], content["end"]
            if ended["note"]:
                client.set_tag(run, "mlflow.note.content", ended["note"])
            client.set_terminated(run, status=ended["status"], end_time=ended["time"])
            content["ended"] = True
    except Exception as error:  # whatever MLflow raises
        return describe_error(error)
    return None
