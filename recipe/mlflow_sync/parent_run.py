"""The MLflow run that holds a sweep's runs together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recipe.components.tracking import Tracking
from recipe.mlflow_sync.client import connect, knows, origin, reason, running_again
from recipe.store.sweep_record import changing, is_untold

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


def parent_run(client: MlflowClient, experiment: str, sweep: Path, uri: str) -> str:
    """Its id in MLflow; made by whichever run asks first."""
    with changing(sweep) as content:
        known = content.get("uri") == uri and content.get("mlflow_run_id")
        if not known or not knows(client, known):
            # a process may have been killed before it noted what it had made
            found = [
                run
                for run in client.search_runs([experiment], f"tags.`recipe.sweep` = '{sweep.name}'")
                if "mlflow.parentRunId" not in run.data.tags
            ]
            tags = {"recipe.sweep": sweep.name, **origin()}
            run = (
                found[0]
                if found
                else client.create_run(experiment, run_name=content["name"], tags=tags)
            )
            content["mlflow_run_id"], content["uri"] = run.info.run_id, uri
            content.pop("ended", None)
        elif content.pop("again", False):
            running_again(client, content["mlflow_run_id"])
        return str(content["mlflow_run_id"])


def tell(tracking: Tracking, outputs: Path, sweep: Path) -> str | None:
    """Tells MLflow how the sweep ended; why it didn't take it, if so."""
    if not is_untold(sweep):
        return None
    try:
        client, _ = connect(tracking, outputs)
        with changing(sweep) as content:
            run, ended = content["mlflow_run_id"], content["end"]
            if ended["note"]:
                client.set_tag(run, "mlflow.note.content", ended["note"])
            client.set_terminated(run, status=ended["status"], end_time=ended["time"])
            content["ended"] = True
    except Exception as error:  # whatever MLflow raises, the sweep's own result stands
        return reason(error)
    return None
