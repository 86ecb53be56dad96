"""`sweep.json` in a sweep's folder: what was planned, and how it stands."""

from __future__ import annotations

import functools
import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from filelock import FileLock
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from recipe import atomic_write
from recipe.config import safe_yaml
from recipe.formatting import printable
from recipe.store import run_dirs

STAMP = len("20261128-235959")
"""Of an id, what tells the time."""


def begin(sweep: Path, planned: Mapping[str, Any] | None = None) -> FileLock:
    """The sweep's lock, held from now on: `runs.alive(sweep)`. An end noted before is void, and so
    is what was planned in the course of it.

    Raises SpecError if another process runs it.
    """
    lock = run_dirs.take(sweep, "sweep")
    with changing(sweep) as content:
        for key in ("path", "stopped"):
            content.pop(key, None)
        content.update(planned or {}, begun=run_dirs.new_id()[:STAMP])
        if content.pop("end", None) and content.pop("ended", False):
            content["again"] = True
    return lock


def end(sweep: Path, status: str, note: str, at: int | None = None) -> None:
    """Notes how the sweep ended; `at` is in milliseconds."""
    with changing(sweep) as content:
        content["end"] = {"status": status, "note": note, "time": at or int(time.time() * 1000)}
        content["ended"] = False


def note(sweep: Path, **values: Any) -> None:
    """Adds to what sweep.json says, or changes it."""
    with changing(sweep) as content:
        content.update(values)


def is_untold(sweep: Path) -> bool:
    """Whether MLflow has the sweep's parent run but doesn't know yet how it ended."""
    content = read(sweep)
    return "end" in content and "mlflow_run_id" in content and not content.get("ended")


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
        with safe_yaml.open_file(sweep / "sweep.json") as file:
            content = safe_yaml.read_json(file.read())
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
def changing(sweep: Path) -> Iterator[dict[str, Any]]:
    """The content of sweep.json, to be changed by one process at a time; what it was if the block
    raises."""
    with FileLock(sweep / ".json.lock", timeout=60, thread_local=False):
        content = read(sweep)
        before = dict(content)
        yield content
        if content != before:
            atomic_write.write(sweep / "sweep.json", json.dumps(content).encode(), sync=False)
