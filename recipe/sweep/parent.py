"""The MLflow run that holds a sweep's runs together, and the `sweep.json` that says how it stands.

What MLflow is to be told at the end is kept there first, so that `sync` can do so later.
"""

from __future__ import annotations

import functools
import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from filelock import FileLock
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from recipe import atomic, plain, runs
from recipe.mlflow_server import connect, knows, origin, reason, running_again
from recipe.tracking import Tracking
from recipe.wording import printable

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

STAMP = len("20261128-235959")
"""Of an id, what tells the time."""


def begin(sweep: Path, planned: Mapping[str, Any] | None = None) -> FileLock:
    """The sweep's lock, held from now on: `runs.alive(sweep)`. An end noted before is void, and so
    is what was planned in the course of it.

    Raises SpecError if another process runs it.
    """
    lock = runs.take(sweep, "sweep")
    with _content(sweep) as content:
        for key in ("path", "stopped"):
            content.pop(key, None)
        content.update(planned or {}, begun=runs.new_id()[:STAMP])
        if content.pop("end", None) and content.pop("ended", False):
            content["again"] = True
    return lock


def parent_run(client: MlflowClient, experiment: str, sweep: Path, uri: str) -> str:
    """Its id in MLflow; made by whichever run asks first."""
    with _content(sweep) as content:
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


def end(sweep: Path, status: str, note: str, at: int | None = None) -> None:
    """Notes how the sweep ended; MLflow is told by `tell`. `at` is in milliseconds."""
    with _content(sweep) as content:
        content["end"] = {"status": status, "note": note, "time": at or int(time.time() * 1000)}
        content["ended"] = False


def note(sweep: Path, **values: Any) -> None:
    """Adds to what sweep.json says, or changes it."""
    with _content(sweep) as content:
        content.update(values)


def is_untold(sweep: Path) -> bool:
    """Whether MLflow has the sweep's parent run but doesn't know yet how it ended."""
    content = read(sweep)
    return "end" in content and "mlflow_run_id" in content and not content.get("ended")


def tell(tracking: Tracking, outputs: Path, sweep: Path) -> str | None:
    """Tells MLflow how the sweep ended; why it didn't take it, if so."""
    if not is_untold(sweep):
        return None
    try:
        client, _ = connect(tracking, outputs)
        with _content(sweep) as content:
            run, ended = content["mlflow_run_id"], content["end"]
            if ended["note"]:
                client.set_tag(run, "mlflow.note.content", ended["note"])
            client.set_terminated(run, status=ended["status"], end_time=ended["time"])
            content["ended"] = True
    except Exception as error:  # whatever MLflow raises, the sweep's own result stands
        return reason(error)
    return None


def begun(sweep: Path) -> str:
    """When it was begun or gone on with last, as the beginning of an id tells it."""
    return str(read(sweep).get("begun", sweep.name[:STAMP]))


def command(typed: Sequence[str]) -> str:
    """The command that a sweep was started with, which goes on with it; `typed` are the arguments
    that sweep.json keeps."""
    if not typed:
        return "the command that it was started with"
    return printable(f"python -m recipe {shlex.join(typed)}")


def read(sweep: Path) -> dict[str, Any]:
    """What sweep.json says, less what is of another kind than is ever written there; nothing, if it
    is damaged."""
    try:
        with plain.open_file(sweep / "sweep.json") as file:
            content = plain.read_json(file.read())
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {key: value for key, value in content.items() if _is_of_kind(key, value)}


KINDS: dict[str, Any] = {
    "name": str,
    "command": list[str],
    "swept": list[str],
    "jobs": Annotated[int, Field(ge=0, lt=10**9)],
    "planned": list[list[str]],
    "digest": str,
    "variants": list[str],
    "threads": Annotated[int, Field(gt=0, lt=10**6)],
    "begun": str,
    "mlflow_run_id": str,
    "uri": str,
    "end": dict[str, str | int],
    "ended": bool,
    "again": bool,
    "path": list[dict[str, Any]],
    "plan": str,
    "stopped": str,
    "by": str,
    "search": dict[str, Any],
    "tricks": list[dict[str, Any]],
    "seeds": list[str],
    "fixed": list[str],
    "trials": list[int],
}


@functools.cache
def _kind(key: str) -> TypeAdapter[Any]:
    return TypeAdapter(KINDS[key], config=ConfigDict(strict=True))


def _is_of_kind(key: str, value: object) -> bool:
    try:
        if key in KINDS:
            _kind(key).validate_python(value)
    except ValidationError:
        return False
    return True


@contextmanager
def _content(sweep: Path) -> Iterator[dict[str, Any]]:
    """The content of sweep.json, to be changed by one process at a time; what it was if the block
    raises."""
    with FileLock(sweep / ".json.lock", timeout=60, thread_local=False):
        content = read(sweep)
        before = dict(content)
        yield content
        if content != before:
            atomic.write(sweep / "sweep.json", json.dumps(content).encode(), sync=False)
