"""Sends a run's journals to MLflow chunk by chunk.

The state is stored after MLflow has accepted a chunk, so a chunk may be sent again after a kill.
That duplicates nothing: of points with the same key, step, time and value MLflow keeps one.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from recipe.components.tracking import Tracking
from recipe.mlflow_sync import client as mlflow_client
from recipe.mlflow_sync.client import RunDeletedError, RunNotFoundError
from recipe.mlflow_sync.parent_run import get_or_create_parent_run
from recipe.store import journal, run_dirs
from recipe.store.upload_state import UploadState

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run
    from mlflow.tracking import MlflowClient

METRICS_PER_CALL = 1000
"""MLflow's limit."""

MAX_RECREATIONS = 3

CHUNK_BYTES = 32_000
"""Bytes of metrics.jsonl that are sent together."""

STATUS_FALLBACKS = {"PRUNED": "KILLED"}
"""MLflow has no status PRUNED."""

MAX_PARAMETER_LENGTH = 6000
"""MLflow's limit in characters."""

MAX_AMBIGUOUS_ERRORS = 3
"""Attempts after which an ambiguous error counts as a rejection."""


class RunUploader:
    """Sends a run's record to one server. Its methods need `acquire_lock`."""

    def __init__(self, run_dir: Path, tracking: Tracking) -> None:
        self.run_dir = run_dir
        self.state = UploadState.read_for_uri(tracking.uri, run_dir)
        self._tracking, self._outputs = tracking, run_dir.parent.parent
        self._server: tuple[MlflowClient, str] | None = None
        self._requests: RunRequests | None = None
        self._recreations = 0
        self.is_caught_up = False
        """Whether the last chunk had the newest metrics."""

    @contextlib.contextmanager
    def acquire_lock(self, timeout: float = 1) -> Iterator[None]:
        """Raises filelock.Timeout if another process is sending the run, and OSError if its folder
        can't be written or was moved."""
        self.run_dir.stat()  # FileLock would create it
        with FileLock(self.run_dir / ".sending", timeout=timeout, thread_local=False):
            self.state = UploadState.read_for_uri(self._tracking.uri, self.run_dir)
            self._requests = None
            yield

    def set_failure(self, failure: str) -> None:
        """Stores why the last attempt failed; empty after one that succeeded."""
        if failure != self.state.failure:
            self.state.failure = failure
            self.state.write(self.run_dir)

    def connect(self) -> RunRequests:
        """Finds or creates the run in MLflow. Raises what `send_chunk` raises."""
        if self._server is None:
            self._server = mlflow_client.connect(self._tracking, self._outputs)
        if self.state.mlflow_run_id is None:
            self._find_or_create_run(*self._server)
        if self._requests is None:
            self._requests = RunRequests(self._server[0], str(self.state.mlflow_run_id), self.state)
        return self._requests

    def send_chunk(self) -> bool:
        """Sends the next chunk. Returns False if there was none.

        The end of the run is sent last. A run that MLflow doesn't know, as its database was
        replaced, is created again and sent from the beginning. Raises RunDeletedError,
        DamagedJournalError, and what MLflow raises if it can't be reached.
        """
        try:
            return self._send_next()
        except RunNotFoundError:
            self._recreations += 1
            if self._recreations > MAX_RECREATIONS:
                raise
            self.state.reset()
            self._requests = None
            self.state.write(self.run_dir)
            return True
        except RunDeletedError as error:
            self.state.gone, self.state.failure = True, str(error)
            self.state.write(self.run_dir)
            raise

    def _send_next(self) -> bool:
        requests, self.is_caught_up = self.connect(), False
        found, after = journal.read_lines(self.run_dir / "events.jsonl", self.state.events, 1)
        if found and found[0].get("kind") != "end":
            self._send_event(requests, found[0])
            self.state.events = after
        elif not self._send_metrics(requests):
            if not found:
                return False
            self._send_end(requests, found[0])
            self.state.events = after
        self.state.gone = False
        self.state.write(self.run_dir)
        return True

    def _find_or_create_run(self, client: MlflowClient, experiment: str) -> None:
        found = self._search_runs(client, experiment)
        if not found:
            tags = {"recipe.run": self.run_dir.name, **mlflow_client.get_source_tags()}
            info = run_dirs.read_info_file(self.run_dir, "run")
            if parent := self._get_parent_run_id(client, experiment, info.sweep):
                tags["mlflow.parentRunId"] = parent
            events, _ = journal.read_lines(self.run_dir / "events.jsonl", 0, 1)
            started = events[0].get("time") if events else None
            self.state.creation_attempts += 1
            self.state.write(self.run_dir)
            found = [
                client.create_run(experiment, start_time=started, run_name=info.name, tags=tags)
            ]
        if found[0].info.lifecycle_stage == "deleted":
            raise RunDeletedError("the run was deleted in MLflow")
        self.state.mlflow_run_id = str(found[0].info.run_id)
        self.state.write(self.run_dir)

    def _search_runs(self, client: MlflowClient, experiment: str) -> list[Run]:
        """Returns MLflow's runs of this record, deleted ones last."""
        view_type = mlflow_client.import_mlflow().entities.ViewType.ALL
        condition = f"tags.`recipe.run` = '{self.run_dir.name}'"
        found = client.search_runs([experiment], condition, run_view_type=view_type)
        return sorted(found, key=lambda run: bool(run.info.lifecycle_stage == "deleted"))

    def _get_parent_run_id(
        self, client: MlflowClient, experiment: str, sweep: str | None
    ) -> str | None:
        folder = self._outputs / "sweeps" / Path(sweep or "").name
        if not sweep or not (folder / "sweep.json").is_file():
            return None
        return get_or_create_parent_run(client, experiment, folder, str(self.state.uri))

    def _send_event(self, requests: RunRequests, event: Mapping[str, Any]) -> None:
        entities = mlflow_client.import_mlflow().entities
        client, run_id = requests.client, requests.run_id
        values = {k: str(v) for k, v in event.items() if k not in ("kind", "time")}
        if event.get("kind") == "parameters":
            for few in _batched(values.items(), 100):
                params = {
                    key: entities.Param(key, value[:MAX_PARAMETER_LENGTH]) for key, value in few
                }
                requests.send_batch(
                    "parameter", params, lambda some: client.log_batch(run_id, params=some)
                )
        elif event.get("kind") == "tags":
            tags = {key: entities.RunTag(key, value) for key, value in values.items()}
            requests.send_batch("tag", tags, lambda some: client.log_batch(run_id, tags=some))
        elif event.get("kind") == "artifact":
            self._send_artifact(requests, values.get("path", ""))
        elif event.get("kind") == "resumed":
            requests.send_one("resuming", lambda: mlflow_client.reopen_run(client, run_id))
            assert self._server is not None
            if parent := self._get_parent_run_id(*self._server, values.get("sweep")):
                client.set_tag(run_id, "mlflow.parentRunId", parent)

    def _send_artifact(self, requests: RunRequests, name: str) -> None:
        path = self.run_dir / name
        # the journal may be another person's: nothing outside of the run's folder is sent
        if path.resolve().is_relative_to(self.run_dir.resolve()) and path.is_file():
            send = functools.partial(requests.client.log_artifact, requests.run_id, str(path))
            requests.send_one(f"artifact {name}", send)
        else:
            self.state.add_problem(f"artifact {name}: there is no such file in the run's folder")

    def _send_metrics(self, requests: RunRequests) -> bool:
        """Sends a chunk of metrics. Returns False if there was none."""
        lines, after = journal.read_lines(
            self.run_dir / "metrics.jsonl", self.state.metrics, CHUNK_BYTES
        )
        points = [point for line in lines for point in self._parse_metrics(line)]
        for batch in _batched(points, METRICS_PER_CALL):
            by_key: dict[str, list[Metric]] = {}
            for point in batch:
                if not requests.is_rejected(f"metric {point.key}"):
                    by_key.setdefault(point.key, []).append(point)
            requests.send_batch("metric", by_key, requests.log_metrics)
        self.is_caught_up = after - self.state.metrics < CHUNK_BYTES // 2
        self.state.metrics = after
        return bool(lines)

    def _parse_metrics(self, line: Mapping[str, Any]) -> list[Metric]:
        entities = mlflow_client.import_mlflow().entities
        try:
            return [
                entities.Metric(str(key), float(value), int(line["time"]), int(line["step"]))
                for key, value in line["metrics"].items()
            ]
        except (KeyError, TypeError, ValueError, AttributeError):
            self.state.add_problem("a line of metrics.jsonl: is damaged")
            return []

    def _send_end(self, requests: RunRequests, event: Mapping[str, Any]) -> None:
        client, run_id = requests.client, requests.run_id
        status = event.get("status")
        end = {"status": STATUS_FALLBACKS.get(str(status), status), "end_time": event.get("time")}
        requests.send_one("the end", lambda: client.set_terminated(run_id, **end))
        if self.state.creation_attempts > 1:  # a frozen server may have created it twice
            assert self._server is not None
            for run in self._search_runs(*self._server):
                if run.info.run_id != run_id and run.info.lifecycle_stage != "deleted":
                    client.delete_run(run.info.run_id)


class RunRequests:
    """Sends items of one run. Rejected items are stored as problems and left out.

    Methods raise what MLflow raises if it may accept the item later, RunDeletedError, and
    RunNotFoundError.
    """

    def __init__(self, client: MlflowClient, run_id: str, sent: UploadState) -> None:
        self.client, self.run_id, self._sent = client, run_id, sent
        self._rejected: set[str] = set()
        self._ambiguous_errors = 0

    def log_metrics(self, groups: Sequence[Sequence[Metric]]) -> None:
        self.client.log_batch(self.run_id, metrics=list(itertools.chain(*groups)))

    def is_rejected(self, item: str) -> bool:
        """Whether an item such as `metric a b` was rejected before."""
        return item in self._rejected

    def send_batch(
        self, kind: str, items: Mapping[str, Any], send: Callable[[list[Any]], object]
    ) -> None:
        """Sends all at once, or one by one if that is rejected."""
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
            self._sent.add_problem(f"{item}: {mlflow_client.describe_error(error)[:300]}")

    def _check_rejection(self, error: Exception) -> None:
        """Returns if MLflow rejected the item, else raises."""
        ambiguous = mlflow_client.is_ambiguous(error)
        self._ambiguous_errors += ambiguous
        if not (
            mlflow_client.is_rejection(error)
            or mlflow_client.is_not_found(error)
            or (ambiguous and self._ambiguous_errors >= MAX_AMBIGUOUS_ERRORS)
        ):
            raise error
        try:
            found = self.client.get_run(self.run_id)
        except Exception as unknown:
            if not mlflow_client.is_not_found(unknown):
                raise
            raise RunNotFoundError("MLflow doesn't know the run") from error
        if found.info.lifecycle_stage == "deleted":
            raise RunDeletedError("the run was deleted in MLflow") from error


def _batched(items: Any, number: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, number)):
        yield batch
