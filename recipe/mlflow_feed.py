"""MLflow fed from a queue by one thread, in batches, so that nothing else ever waits for it."""

from __future__ import annotations

import getpass
import json
import logging
import os
import queue
import sqlite3
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock

from recipe.tracking import Tracking

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

Status = Literal["FINISHED", "FAILED", "KILLED"]

BATCH = 1000
"""Metrics MLflow takes in one call."""

TRAINING = {"mlflow.experimentKind": "custom_model_development"}
"""Makes MLflow's page show the columns of training runs, not those of language models."""

LONGEST_PARAMETER = 6000
"""Characters of a parameter's value that MLflow keeps."""


class Feed:
    """One run in MLflow, made and filled in the background."""

    def __init__(self, tracking: Tracking, outputs: Path, name: str, sweep: Path | None) -> None:
        self.run_id: str | None = None
        self._tracking, self._outputs, self._name, self._sweep = tracking, outputs, name, sweep
        self._queue: queue.SimpleQueue[tuple[str, dict[str, Any]] | None] = queue.SimpleQueue()
        self._failure: str | None = None
        self._started = int(time.time() * 1000)
        self._thread = threading.Thread(target=self._run, name="mlflow-feed", daemon=True)
        self._thread.start()

    def put(self, kind: str, content: dict[str, Any]) -> None:
        self._queue.put((kind, content))

    def finish(self) -> str | None:
        """Waits until all is sent; why it isn't, if MLflow failed."""
        self._queue.put(None)
        self._thread.join()
        return self._failure

    def _run(self) -> None:
        try:
            client, experiment = connect(self._tracking, self._outputs)
            tags = _origin()
            if self._sweep is not None:
                tags["mlflow.parentRunId"] = parent_run(client, experiment, self._sweep)
            made = client.create_run(
                experiment, start_time=self._started, run_name=self._name, tags=tags
            )
            self.run_id = made.info.run_id
            self._send(client, self.run_id)
        except Exception as error:  # whatever MLflow raises, training goes on
            self._failure = _reason(error)

    def _send(self, client: MlflowClient, run_id: str) -> None:
        from mlflow.entities import Metric

        points: list[Metric] = []
        while (item := self._queue.get()) is not None:
            kind, content = item
            if kind == "metrics":
                points += [
                    Metric(key, value, content["time"], content["step"])
                    for key, value in content["metrics"].items()
                ]
            if points and (kind != "metrics" or len(points) >= BATCH or self._queue.empty()):
                for start in range(0, len(points), BATCH):
                    client.log_batch(run_id, metrics=points[start : start + BATCH])
                points.clear()
            if kind != "metrics":
                _send_event(client, run_id, kind, content)


def _send_event(client: MlflowClient, run_id: str, kind: str, content: dict[str, Any]) -> None:
    from mlflow.entities import Param, RunTag

    values = {k: v for k, v in content.items() if k not in ("folder", "time")}
    if kind == "parameters":
        params = [Param(key, value[:LONGEST_PARAMETER]) for key, value in values.items()]
        for start in range(0, len(params), 100):
            client.log_batch(run_id, params=params[start : start + 100])
    elif kind == "tags":
        client.log_batch(run_id, tags=[RunTag(key, value) for key, value in values.items()])
    elif kind == "artifact":
        client.log_artifact(run_id, str(content["folder"] / content["path"]))
    elif kind == "end":
        client.set_terminated(run_id, status=content["status"], end_time=content["time"])


def _origin() -> dict[str, str]:
    """The tags by which MLflow's page says who ran what."""
    try:
        return {"mlflow.source.name": "recipe", "mlflow.user": getpass.getuser()}
    except (KeyError, OSError):  # a container's user can be without a name
        return {"mlflow.source.name": "recipe"}


def connect(tracking: Tracking, outputs: Path) -> tuple[MlflowClient, str]:
    """A client and the id of the experiment.

    A new sqlite database is made under a file lock: several processes that make one at the same
    moment would break each other's migration.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    # with MLflow's own defaults a server that is gone is waited for for four minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow.tracking import MlflowClient

    assert tracking.uri is not None
    outputs.mkdir(parents=True, exist_ok=True)
    with FileLock(outputs / ".mlflow.lock"):
        client = MlflowClient(tracking.uri)
        found = client.get_experiment_by_name(tracking.experiment)
        if found is not None:
            return client, str(found.experiment_id)
        experiment = client.create_experiment(tracking.experiment, tracking.artifacts, TRAINING)
        if tracking.uri.startswith("sqlite:///"):
            with sqlite3.connect(tracking.uri.removeprefix("sqlite:///")) as database:
                database.execute("PRAGMA journal_mode=WAL")
            database.close()
        return client, str(experiment)


def parent_run(client: MlflowClient, experiment: str, sweep: Path) -> str:
    """The MLflow run that holds a sweep's runs together; made by whichever job asks first."""
    with FileLock(sweep / ".lock"):
        path = sweep / "sweep.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        if "mlflow_run_id" not in content:
            tags = {"recipe.sweep": sweep.name, **_origin()}
            run = client.create_run(experiment, run_name=content["name"], tags=tags)
            content["mlflow_run_id"] = run.info.run_id
            path.write_text(json.dumps(content), encoding="utf-8")
        return str(content["mlflow_run_id"])


def end_sweep(
    tracking: Tracking, outputs: Path, sweep: Path, status: Status, note: str
) -> str | None:
    """Closes the parent run of a sweep, if one was made; why MLflow didn't take it, if so."""
    content = json.loads((sweep / "sweep.json").read_text(encoding="utf-8"))
    if "mlflow_run_id" not in content:
        return None
    try:
        client, _ = connect(tracking, outputs)
        client.set_tag(content["mlflow_run_id"], "mlflow.note.content", note)
        client.set_terminated(content["mlflow_run_id"], status=status)
    except Exception as error:  # whatever MLflow raises, the sweep's own result stands
        return _reason(error)
    return None


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"
