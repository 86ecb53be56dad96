"""MLflow's side: a connection whose every call is bounded, the experiment, what an error means."""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import re
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

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
"""Makes MLflow's page show the columns of training runs, not those of language models."""

TIMEOUT_VARIABLE = "MLFLOW_HTTP_REQUEST_TIMEOUT"

INITIAL_TIMEOUT, MAX_TIMEOUT = 10, 60
"""Seconds that a server has for an answer: at first, and once it has shown that it is slow."""

MAX_REASON_LENGTH = 200
"""Characters of an error that is told as it is."""

REJECTION_CODES = frozenset({"INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS"})
"""MLflow's codes for what it will not take, however often it is offered."""

UNREACHABLE_PATTERN = re.compile(r"HTTPS?ConnectionPool\(host='([^']*)', port=(\d+)\)")
"""How the message begins that no server answered."""

RETRIES_EXHAUSTED_PATTERN = re.compile(r"too many (\d{3}) error responses")
"""What urllib3 says of a server that is in trouble itself."""

AMBIGUOUS_CODES = frozenset({"BAD_REQUEST", "MALFORMED_REQUEST"})
"""Codes that a database in trouble gives as well, or a proxy."""


class RunDeletedError(Exception):
    """The run isn't in MLflow any more, and nothing is to be sent."""


class RunNotFoundError(Exception):
    """MLflow never heard of the run: its database is a new one, or another."""


def configure_mlflow() -> None:
    """Sets what MLflow reads of the environment, and imports it, which takes a second or two.

    What the user has set stays. Nothing is retried within a call: whoever calls does that, and one
    call to a server that is gone would otherwise last for minutes.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault(TIMEOUT_VARIABLE, str(INITIAL_TIMEOUT))
    logging.getLogger("alembic").setLevel(logging.WARNING)
    import mlflow.tracking  # noqa: F401

    # whoever calls tells the reason, and without the traceback
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def connect(tracking: Tracking, outputs: Path) -> tuple[MlflowClient, str]:
    """A client and the id of the experiment, which is made if there is none.

    A new sqlite database is made under a file lock: several processes that make one at the same
    moment would break each other's migration.
    """
    assert tracking.uri is not None
    configure_mlflow()
    path = database_path(tracking.uri)
    if path is None:
        return _get_or_create_experiment(tracking)
    outputs.mkdir(parents=True, exist_ok=True)
    with FileLock(outputs / ".mlflow.lock", thread_local=False):
        if not path.exists():
            _create_database(path, tracking.artifacts or (outputs / "mlartifacts").as_uri())
        return _get_or_create_experiment(tracking)


def _create_database(path: Path, artifacts: str) -> None:
    """A process that is killed while it does so leaves none, as half of one couldn't be mended.

    `artifacts` is the folder of MLflow's "Default" experiment, as a URI: by default that is in the
    working directory, whose name MLflow writes unquoted into its SQL.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    draft, copy = path.with_name(f".{path.name}.draft"), path.with_name(f".{path.name}.copy")
    for left in (draft, copy):
        left.unlink(missing_ok=True)
    SqlAlchemyStore(database_uri(draft), artifacts)
    made, database = sqlite3.connect(draft), sqlite3.connect(copy)
    with contextlib.closing(made), contextlib.closing(database):  # MLflow keeps the draft open
        made.backup(database)
        database.execute("PRAGMA journal_mode=WAL")
    os.replace(copy, path)
    draft.unlink()


def _get_or_create_experiment(tracking: Tracking) -> tuple[MlflowClient, str]:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking.uri)
    found = client.get_experiment_by_name(tracking.experiment)
    if found is None:
        try:
            made = client.create_experiment(
                tracking.experiment, tracking.artifacts, EXPERIMENT_TAGS
            )
            return client, str(made)
        except MlflowException as error:  # somebody else made it at the same moment
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
    """Sets a run that ended to RUNNING, with no end time (for MLflow an end time of 0 is none)."""
    from mlflow.entities import RunStatus

    # the public update_run keeps the end time
    client._tracking_client.store.update_run_info(
        run_id, run_status=RunStatus.from_string("RUNNING"), end_time=0, run_name=None
    )


def get_source_tags() -> dict[str, str]:
    """The tags by which MLflow's page says who ran what."""
    try:
        return {"mlflow.source.name": "recipe", "mlflow.user": getpass.getuser()}
    except (KeyError, OSError):  # a container's user can be without a name
        return {"mlflow.source.name": "recipe"}


def is_rejection(error: Exception) -> bool:
    """Whether MLflow will never take what it was given."""
    return getattr(error, "error_code", None) in REJECTION_CODES


def is_ambiguous(error: Exception) -> bool:
    """Whether MLflow may never take what it was given: after a few times it is a refusal."""
    status = getattr(getattr(error, "response", None), "status_code", None)  # of an upload
    return getattr(error, "error_code", None) in AMBIGUOUS_CODES or status in (400, 413, 422)


def is_not_found(error: Exception) -> bool:
    """Whether MLflow knows nothing by that id."""
    return getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST"


def has_run(client: MlflowClient, run_id: str) -> bool:
    """Raises whatever MLflow raises if it can't be asked."""
    try:
        client.get_run(run_id)
    except Exception as error:
        if not is_not_found(error):
            raise
        return False
    return True


def extend_timeout(error: Exception) -> None:
    """After a call that took too long, the next may take twice as long."""
    slow = "Timeout" in type(error.__cause__ or error.__context__ or error).__name__
    seconds = os.environ.get(TIMEOUT_VARIABLE, "")
    if slow and seconds.isdigit() and INITIAL_TIMEOUT <= int(seconds) < MAX_TIMEOUT:
        os.environ[TIMEOUT_VARIABLE] = str(min(MAX_TIMEOUT, 2 * int(seconds)))


def describe_error(error: Exception) -> str:
    """What an error says, shortly, on one line, and without what may not be shown."""
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
    if found := UNREACHABLE_PATTERN.search(text):  # the rest is how urllib3 came to say so
        last = re.sub(r"\[Errno \d+\] ", "", text[found.end() :].rpartition(": ")[2])
        last = re.sub(r"[\"']\)+$", "", last)
        return f"{found[1]}:{found[2]}: {last}"
    first = credentials.mask_secrets(str(error).strip().partition("\n")[0].partition("[SQL:")[0])
    return f"{type(error).__name__}: {' '.join(first.split())[:MAX_REASON_LENGTH]}"
