"""What MLflow is offered of one run: it takes it, refuses it for good, or can't be asked."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from recipe.mlflow_sync import client as mlflow_server
from recipe.mlflow_sync.client import RunDeletedError, RunNotFoundError
from recipe.store.upload_state import UploadState

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

MAX_AMBIGUOUS_ERRORS = 3
"""How often that is offered which MLflow may or may not take."""


class RunRequests:
    """A refusal is noted in `sent`, and costs nothing but what was refused.

    Every method raises what MLflow raises if it may take it yet, Gone if the run was deleted, and
    Unknown if there is no such run.
    """

    def __init__(self, client: MlflowClient, run_id: str, sent: UploadState) -> None:
        self.client, self.run_id, self._sent = client, run_id, sent
        self._rejected: set[str] = set()
        self._ambiguous_errors = 0

    def is_rejected(self, item: str) -> bool:
        """Whether such a thing was refused before, such as `metric a b`."""
        return item in self._rejected

    def send_batch(
        self, kind: str, items: Mapping[str, Any], send: Callable[[list[Any]], object]
    ) -> None:
        """Sends all at once, or if one of them is refused each by itself."""
        try:
            send(list(items.values()))
        except Exception as error:
            self._check_rejection(error)
            for key, item in items.items():
                self.send_one(f"{kind} {key}", functools.partial(send, [item]))
        self._ambiguous_errors = 0

    def send_one(self, item: str, send: Callable[[], object]) -> None:
        try:
            send()
        except Exception as error:
            self._check_rejection(error)
            self._rejected.add(item)
            self._sent.add_problem(f"{item}: {mlflow_server.describe_error(error)[:300]}")

    def _check_rejection(self, error: Exception) -> None:
        """Returns if MLflow refused an item."""
        doubtful = mlflow_server.is_ambiguous(error)
        self._ambiguous_errors += doubtful
        if not (
            mlflow_server.is_rejection(error)
            or mlflow_server.is_not_found(error)
            or (doubtful and self._ambiguous_errors >= MAX_AMBIGUOUS_ERRORS)
        ):
            raise error
        try:
            found = self.client.get_run(self.run_id)
        except Exception as unknown:
            if not mlflow_server.is_not_found(unknown):
                raise
            raise RunNotFoundError("MLflow doesn't know the run") from error
        if found.info.lifecycle_stage == "deleted":
            raise RunDeletedError("the run was deleted in MLflow") from error
