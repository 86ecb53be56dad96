"""MLflow's client: calls with a time limit, the experiment, the meaning of errors."""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import re
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from recipe.components.tracking import Tracking
from recipe.components.tracking.local import database_path, database_uri
from recipe.config import credentials
from recipe.config.credentials import CREDENTIALS_HINT
from recipe.errors import RecipeError
from recipe.store.journal import DamagedJournalError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Makes MLflow show columns for training runs, not those for language models."""

TIMEOUT_VARIABLE = "MLFLOW_HTTP_REQUEST_TIMEOUT"

INITIAL_TIMEOUT_SECONDS, MAX_TIMEOUT_SECONDS = 10, 60

MAX_REASON_LENGTH = 200

REJECTION_CODES = frozenset({"INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS"})
"""Error codes of requests that MLflow will never accept."""

UNREACHABLE_PATTERN = re.compile(r"HTTPS?ConnectionPool\(host='([^']*)', port=(\d+)\)")

RETRIES_EXHAUSTED_PATTERN = re.compile(r"too many (\d{3}) error responses")

AMBIGUOUS_CODES = frozenset({"BAD_REQUEST", "MALFORMED_REQUEST"})
"""Codes that a failing database or a proxy returns, too."""


class RunDeletedError(Exception):
    """The run was deleted in MLflow, so nothing is sent."""


class RunNotFoundError(Exception):
    """MLflow doesn't know the run, as its database was replaced."""


DEFAULT_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # callers retry: a single call to a server that is down would otherwise last for minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    TIMEOUT_VARIABLE: str(INITIAL_TIMEOUT_SECONDS),
}


def import_mlflow() -> Any:
    """Returns MLflow. Only imported here: it takes 1 to 2 seconds, which most commands don't need,
    and the environment variables must be set before."""
    for name, value in DEFAULT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    import mlflow.tracking

    # callers report the error without the traceback
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    return mlflow


def connect(tracking: Tracking, outputs: Path) -> tuple[MlflowClient, str]:
    """Returns a client and the id of the experiment, which is created if there is none.

    A new sqlite database is created under a file lock, as processes that create one at the same
    time would break each other's migration. Raises FileNotFoundError if `outputs` was moved.
    """
    assert tracking.uri is not None
    path = database_path(tracking.uri)
    if path is None:
        return _get_or_create_experiment(tracking)
    outputs.stat()  # FileLock and MLflow would create it
    with FileLock(outputs / ".mlflow.lock", thread_local=False):
        if not path.exists():
            _create_database(path, tracking.artifacts or (outputs / "mlartifacts").as_uri())
        return _get_or_create_experiment(tracking)


def _create_database(path: Path, artifacts: str) -> None:
    """Creates the database atomically: an incomplete one could not be repaired.

    `artifacts` is the URI of the folder of MLflow's "Default" experiment. MLflow's own default is
    in the working directory, whose name it writes unquoted into its SQL.
    """
    import_mlflow()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    draft, copy = path.with_name(f".{path.name}.draft"), path.with_name(f".{path.name}.copy")
    for leftover in (draft, copy):
        leftover.unlink(missing_ok=True)
    SqlAlchemyStore(database_uri(draft), artifacts)
    source, database = sqlite3.connect(draft), sqlite3.connect(copy)
    with contextlib.closing(source), contextlib.closing(database):  # MLflow keeps the draft open
        source.backup(database)
        database.execute("PRAGMA journal_mode=WAL")
    os.replace(copy, path)
    draft.unlink()


def _get_or_create_experiment(tracking: Tracking) -> tuple[MlflowClient, str]:
    mlflow = import_mlflow()
    client: MlflowClient = mlflow.MlflowClient(tracking.uri)
    found = client.get_experiment_by_name(tracking.experiment)
    if found is None:
        try:
            made = client.create_experiment(
                tracking.experiment, tracking.artifacts, EXPERIMENT_TAGS
            )
            return client, str(made)
        except mlflow.MlflowException as error:  # another process created it at the same time
            found = client.get_experiment_by_name(tracking.experiment)
            if found is None:
                raise error
    if found.lifecycle_stage == "deleted":
        raise RecipeError(
            f"the experiment {tracking.experiment!r} is deleted in MLflow; restore it there, or "
            "choose another: tracking.experiment=..."
        )
    return client, str(found.experiment_id)


def reopen_run(client: MlflowClient, run_id: str) -> None:
    """Sets an ended run to RUNNING, without an end time (0 for MLflow)."""
    status = import_mlflow().entities.RunStatus.from_string("RUNNING")
    # the public update_run keeps the end time
    client._tracking_client.store.update_run_info(
        run_id, run_status=status, end_time=0, run_name=None
    )


def get_source_tags() -> dict[str, str]:
    """Returns the tags from which MLflow shows the source and the user of a run."""
    try:
        return {"mlflow.source.name": "recipe", "mlflow.user": getpass.getuser()}
    except (KeyError, OSError):  # a container's user may have no name
        return {"mlflow.source.name": "recipe"}


def is_rejection(error: Exception) -> bool:
    """Whether MLflow will never accept the request."""
    return getattr(error, "error_code", None) in REJECTION_CODES


def is_ambiguous(error: Exception) -> bool:
    """Whether MLflow may have rejected the request; if it repeats, it has."""
    status = getattr(getattr(error, "response", None), "status_code", None)  # of an upload
    return getattr(error, "error_code", None) in AMBIGUOUS_CODES or status in (400, 413, 422)


def is_not_found(error: Exception) -> bool:
    """Whether MLflow has nothing with the requested id."""
    return getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST"


def has_run(client: MlflowClient, run_id: str) -> bool:
    """Raises what MLflow raises if it doesn't answer."""
    try:
        client.get_run(run_id)
    except Exception as error:
        if not is_not_found(error):
            raise
        return False
    return True


def extend_timeout(error: Exception) -> None:
    """Doubles the time limit of calls if `error` is a timeout."""
    slow = "Timeout" in type(error.__cause__ or error.__context__ or error).__name__
    seconds = os.environ.get(TIMEOUT_VARIABLE, "")
    if slow and seconds.isdigit() and INITIAL_TIMEOUT_SECONDS <= int(seconds) < MAX_TIMEOUT_SECONDS:
        os.environ[TIMEOUT_VARIABLE] = str(min(MAX_TIMEOUT_SECONDS, 2 * int(seconds)))


def describe_error(error: Exception) -> str:
    """Returns the error's message on one short line, without secrets."""
    if isinstance(error, (RecipeError, RunDeletedError, RunNotFoundError, DamagedJournalError)):
        return str(error)
    text = credentials.mask_secrets(" ".join(str(error).split()))
    if getattr(error, "error_code", None) == "UNAUTHENTICATED":
        return (
            f"the server doesn't know who sends it, or wants another password; {CREDENTIALS_HINT}"
        )
    if found := RETRIES_EXHAUSTED_PATTERN.search(text):
        return f"the server answers {found[1]}"
    if "Invalid Host header" in text:
        return "the server refuses the name it was called by; start it with --allowed-hosts"
    if found := UNREACHABLE_PATTERN.search(text):  # the rest is urllib3's chain of causes
        last = re.sub(r"\[Errno \d+\] ", "", text[found.end() :].rpartition(": ")[2])
        last = re.sub(r"[\"']\)+$", "", last)
        return f"{found[1]}:{found[2]}: {last}"
    first = credentials.mask_secrets(str(error).strip().partition("\n")[0].partition("[SQL:")[0])
    return f"{type(error).__name__}: {' '.join(first.split())[:MAX_REASON_LENGTH]}"
