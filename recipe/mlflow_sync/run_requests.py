"""What MLflow is offered of one run: it takes it, refuses it for good, or can't be asked."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from recipe.mlflow_sync import client as mlflow_server
from recipe.mlflow_sync.client import Gone, Unknown
from recipe.store.upload_state import Sent

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

DOUBTS = 3
"""How often that is offered which MLflow may or may not take."""


class Offers:
    """A refusal is noted in `sent`, and costs nothing but what was refused.

    Every method raises what MLflow raises if it may take it yet, Gone if the run was deleted, and
    Unknown if there is no such run.
    """

    def __init__(self, client: MlflowClient, run_id: str, sent: Sent) -> None:
        self.client, self.run_id, self._sent = client, run_id, sent
        self._refused: set[str] = set()
        self._doubts = 0

    def is_refused(self, what: str) -> bool:
        """Whether such a thing was refused before, such as `metric a b`."""
        return what in self._refused

    def each(
        self, kind: str, items: Mapping[str, Any], send: Callable[[list[Any]], object]
    ) -> None:
        """Sends all at once, or if one of them is refused each by itself."""
        try:
            send(list(items.values()))
        except Exception as error:
            self._check(error)
            for key, item in items.items():
                self.one(f"{kind} {key}", functools.partial(send, [item]))
        self._doubts = 0

    def one(self, what: str, send: Callable[[], object]) -> None:
        try:
            send()
        except Exception as error:
            self._check(error)
            self._refused.add(what)
            self._sent.refuse(f"{what}: {mlflow_server.reason(error)[:300]}")

    def _check(self, error: Exception) -> None:
        """Returns if MLflow refused an item."""
        doubtful = mlflow_server.is_doubtful(error)
        self._doubts += doubtful
        if not (
            mlflow_server.is_refusal(error)
            or mlflow_server.is_unknown(error)
            or (doubtful and self._doubts >= DOUBTS)
        ):
            raise error
        try:
            found = self.client.get_run(self.run_id)
        except Exception as unknown:
            if not mlflow_server.is_unknown(unknown):
                raise
            raise Unknown("MLflow doesn't know the run") from error
        if found.info.lifecycle_stage == "deleted":
            raise Gone("the run was deleted in MLflow") from error
