"""The record of a run: a journal on disk first, and MLflow fed from it by a thread of its own.

`<outputs>/runs/<run id>/` holds the journal (`metrics.jsonl` for metrics, `events.jsonl` for
parameters, tags, artifacts and the end; only ever appended to, a whole line at a time), `run.json`,
and the artifacts as files. Training never waits for MLflow.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipe import runs
from recipe.journal import Journal
from recipe.mlflow_feed import Feed, Status
from recipe.tracking import Tracking


class Recorder:
    """Records one run. Everything is on disk when a call returns; MLflow follows."""

    def __init__(
        self, outputs: Path, name: str, tracking: Tracking, *, sweep: Path | None = None
    ) -> None:
        self.id = runs.new_id()
        self.name = name
        self.folder = runs.folder(outputs) / self.id
        self.folder.mkdir(parents=True)
        self._metrics = Journal(self.folder / "metrics.jsonl")
        self._events = Journal(self.folder / "events.jsonl")
        self._feed = Feed(tracking, outputs, name, sweep) if tracking.uri else None
        self.failure: str | None = None
        """Why MLflow lacks a part of the record, if it does."""
        self._note(status="RUNNING")

    @property
    def mlflow_run_id(self) -> str | None:
        return self._feed.run_id if self._feed else None

    def parameters(self, values: Mapping[str, Any]) -> None:
        self._event("parameters", {key: str(value) for key, value in values.items()})

    def tags(self, values: Mapping[str, str]) -> None:
        self._event("tags", dict(values))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Points at one global step."""
        line = {"step": step, "time": _now(), "metrics": dict(values)}
        self._metrics.write(line)
        if self._feed:
            self._feed.put("metrics", line)

    def text(self, name: str, content: str) -> None:
        """Keeps a text as the artifact of that name."""
        (self.folder / name).write_text(content, encoding="utf-8")
        self.artifact(name)

    def artifact(self, name: str) -> None:
        """Keeps a file that lies in the run's folder already."""
        self._event("artifact", {"path": name})

    def close(self, status: Status) -> None:
        """Ends the run and waits until MLflow has all of it, or will not take it."""
        self._event("end", {"status": status})
        self._note(status=status)
        if self._feed:
            self.failure = self._feed.finish()
            self._note(status=status)  # with MLflow's id, known by now
        self._metrics.close()
        self._events.close()

    def _event(self, kind: str, content: dict[str, Any]) -> None:
        self._events.write({"kind": kind, "time": _now(), **content})
        if self._feed:
            self._feed.put(kind, {**content, "folder": self.folder, "time": _now()})

    def _note(self, status: str) -> None:
        content = {"id": self.id, "name": self.name, "status": status}
        if self.mlflow_run_id:
            content["mlflow_run_id"] = self.mlflow_run_id
        temporary = self.folder / ".run.json.tmp"
        temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")
        temporary.replace(self.folder / "run.json")


def _now() -> int:
    return int(time.time() * 1000)
