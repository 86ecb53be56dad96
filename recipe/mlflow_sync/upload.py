"""What MLflow still lacks of a run, sent from its journals piece by piece.

How far MLflow has come is noted after it has taken a piece, so after a kill a piece may be sent
again; that doubles nothing: of points with the same key, step, time and value MLflow keeps one.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from recipe.components.tracking import Tracking
from recipe.mlflow_sync import client as mlflow_server
from recipe.mlflow_sync.client import Gone, Unknown
from recipe.mlflow_sync.parent_run import parent_run
from recipe.mlflow_sync.run_requests import Offers
from recipe.store import journal, run_dirs
from recipe.store.upload_state import Sent

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run
    from mlflow.tracking import MlflowClient

BATCH = 1000
"""Metrics MLflow takes in one call."""

LOSSES = 3
"""How often a run is made anew of which MLflow doesn't know any more."""

PIECE = 32_000
"""Bytes of the journal of metrics that are sent together: about a batch."""

NEAREST = {"PRUNED": "KILLED"}
"""MLflow's state for an end that it has none for; the run's tags say which it was."""

LONGEST_PARAMETER = 6000
"""Characters of a parameter's value that MLflow keeps."""


class Sending:
    """Sends one run's record, to one server. Everything within `sole`."""

    def __init__(self, run: Path, tracking: Tracking) -> None:
        self.run = run
        self.sent = Sent.to(tracking.uri, run)
        self._tracking, self._outputs = tracking, run.parent.parent
        self._server: tuple[MlflowClient, str] | None = None
        self._offers: Offers | None = None
        self._losses = 0
        self.at_its_heels = False
        """The last piece was of metrics, and there were few: the run had only just written them."""

    @contextlib.contextmanager
    def sole(self) -> Iterator[None]:
        """Raises filelock's Timeout if another process is sending the run."""
        with FileLock(self.run / ".sending", timeout=1, thread_local=False):
            self.sent, self._offers = Sent.to(self._tracking.uri, self.run), None
            yield

    def connect(self) -> Offers:
        """Finds the run in MLflow, or makes it. Raises what `piece` raises."""
        if self._server is None:
            self._server = mlflow_server.connect(self._tracking, self._outputs)
        if self.sent.mlflow_run_id is None:
            self._find(*self._server)
        if self._offers is None:
            self._offers = Offers(self._server[0], str(self.sent.mlflow_run_id), self.sent)
        return self._offers

    def piece(self) -> bool:
        """Sends the next piece; False if nothing was left.

        The end is sent when there is nothing else. A run that MLflow doesn't know, as its database
        is a new one, is made anew and sent from the beginning. Raises Gone if the run was deleted
        in MLflow, journal.Damaged, and whatever MLflow raises if it can't be reached.
        """
        try:
            return self._piece()
        except Unknown:
            self._losses += 1
            if self._losses > LOSSES:
                raise
            self.sent.forget()
            self._offers = None
            self.sent.write(self.run)
            return True
        except Gone:
            self.sent.gone = True
            self.sent.write(self.run)
            raise

    def _piece(self) -> bool:
        offers, self.at_its_heels = self.connect(), False
        found, after = journal.read(self.run / "events.jsonl", self.sent.events, 1)
        if found and found[0].get("kind") != "end":
            self._event(offers, found[0])
            self.sent.events = after
        elif not self._metrics(offers):
            if not found:
                return False
            self._end(offers, found[0])
            self.sent.events = after
        self.sent.gone = False
        self.sent.write(self.run)
        return True

    def _find(self, client: MlflowClient, experiment: str) -> None:
        found = self._all(client, experiment)
        if not found:
            tags = {"recipe.run": self.run.name, **mlflow_server.origin()}
            info = run_dirs.read(self.run, "run")
            if parent := self._parent(client, experiment, info.sweep):
                tags["mlflow.parentRunId"] = parent
            events, _ = journal.read(self.run / "events.jsonl", 0, 1)
            started = events[0].get("time") if events else None
            self.sent.asked += 1
            self.sent.write(self.run)
            found = [
                client.create_run(experiment, start_time=started, run_name=info.name, tags=tags)
            ]
        if found[0].info.lifecycle_stage == "deleted":
            raise Gone("the run was deleted in MLflow")
        self.sent.mlflow_run_id = str(found[0].info.run_id)
        self.sent.write(self.run)

    def _all(self, client: MlflowClient, experiment: str) -> list[Run]:
        """What MLflow has of this run; those that are deleted last."""
        from mlflow.entities import ViewType

        condition = f"tags.`recipe.run` = '{self.run.name}'"
        found = client.search_runs([experiment], condition, run_view_type=ViewType.ALL)
        return sorted(found, key=lambda run: bool(run.info.lifecycle_stage == "deleted"))

    def _parent(self, client: MlflowClient, experiment: str, sweep: str | None) -> str | None:
        folder = self._outputs / "sweeps" / Path(sweep or "").name
        if not sweep or not (folder / "sweep.json").is_file():
            return None
        return parent_run(client, experiment, folder, str(self.sent.uri))

    def _event(self, offers: Offers, event: Mapping[str, Any]) -> None:
        from mlflow.entities import Param, RunTag

        client, run_id = offers.client, offers.run_id
        values = {k: str(v) for k, v in event.items() if k not in ("kind", "time")}
        if event.get("kind") == "parameters":
            for few in _several(values.items(), 100):
                params = {key: Param(key, value[:LONGEST_PARAMETER]) for key, value in few}
                offers.each("parameter", params, lambda some: client.log_batch(run_id, params=some))
        elif event.get("kind") == "tags":
            tags = {key: RunTag(key, value) for key, value in values.items()}
            offers.each("tag", tags, lambda some: client.log_batch(run_id, tags=some))
        elif event.get("kind") == "artifact":
            self._artifact(offers, values.get("path", ""))
        elif event.get("kind") == "resumed":
            offers.one("taking it up", lambda: mlflow_server.running_again(client, run_id))
            assert self._server is not None
            if parent := self._parent(*self._server, values.get("sweep")):
                client.set_tag(run_id, "mlflow.parentRunId", parent)

    def _artifact(self, offers: Offers, name: str) -> None:
        path = self.run / name
        # a journal may be a stranger's, and only what lies in the run's folder is a part of it
        if path.resolve().is_relative_to(self.run.resolve()) and path.is_file():
            send = functools.partial(offers.client.log_artifact, offers.run_id, str(path))
            offers.one(f"artifact {name}", send)
        else:
            self.sent.refuse(f"artifact {name}: there is no such file in the run's folder")

    def _metrics(self, offers: Offers) -> bool:
        """Sends about a batch; False if there was none."""
        lines, after = journal.read(self.run / "metrics.jsonl", self.sent.metrics, PIECE)
        points = [point for line in lines for point in self._points(line)]
        for batch in _several(points, BATCH):
            by_key: dict[str, list[Metric]] = {}
            for point in batch:
                if not offers.is_refused(f"metric {point.key}"):
                    by_key.setdefault(point.key, []).append(point)
            offers.each(
                "metric",
                by_key,
                lambda some: offers.client.log_batch(
                    offers.run_id, metrics=list(itertools.chain(*some))
                ),
            )
        self.at_its_heels = after - self.sent.metrics < PIECE // 2
        self.sent.metrics = after
        return bool(lines)

    def _points(self, line: Mapping[str, Any]) -> list[Metric]:
        from mlflow.entities import Metric

        try:
            return [
                Metric(str(key), float(value), int(line["time"]), int(line["step"]))
                for key, value in line["metrics"].items()
            ]
        except (KeyError, TypeError, ValueError, AttributeError):
            self.sent.refuse("a line of metrics.jsonl: is damaged")
            return []

    def _end(self, offers: Offers, event: Mapping[str, Any]) -> None:
        client, run_id = offers.client, offers.run_id
        said = event.get("status")
        end = {"status": NEAREST.get(str(said), said), "end_time": event.get("time")}
        offers.one("the end", lambda: client.set_terminated(run_id, **end))
        if self.sent.asked > 1:  # a server that was frozen may have answered what we gave up
            assert self._server is not None
            for run in self._all(*self._server):
                if run.info.run_id != run_id and run.info.lifecycle_stage != "deleted":
                    client.delete_run(run.info.run_id)


def _several(items: Any, number: int) -> Iterator[list[Any]]:
    """The items, so many at a time."""
    left = iter(items)
    while some := list(itertools.islice(left, number)):
        yield some
