"""`sweep.json` in a sweep's folder: its plan and its state."""

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
from recipe.formatting import escape_unprintable
from recipe.store import run_dirs

TIMESTAMP_LENGTH = len("20261128-235959")  # at the beginning of an id


def start_sweep(sweep_dir: Path, planned: Mapping[str, Any] | None = None) -> FileLock:
    """Acquires the sweep's lock and records its start; the record of an earlier end is removed.

    Raises SpecError if another process runs it.
    """
    lock = run_dirs.acquire_lock(sweep_dir, "sweep")
    with edit_record(sweep_dir) as content:
        for key in ("path", "stopped"):
            content.pop(key, None)
        content.update(planned or {}, begun=run_dirs.new_run_id()[:TIMESTAMP_LENGTH])
        if content.pop("end", None) and content.pop("ended", False):
            content["again"] = True
    return lock


def write_end(sweep_dir: Path, status: str, note: str, at: int | None = None) -> None:
    """Records the end of the sweep; `at` is in milliseconds."""
    with edit_record(sweep_dir) as content:
        content["end"] = {"status": status, "note": note, "time": at or int(time.time() * 1000)}
        content["ended"] = False


def update_record(sweep_dir: Path, **values: Any) -> None:
    with edit_record(sweep_dir) as content:
        content.update(values)


def has_unsent_end(sweep_dir: Path) -> bool:
    """Whether MLflow has the sweep's parent run but not its end."""
    content = read_record(sweep_dir)
    return "end" in content and "mlflow_run_id" in content and not content.get("ended")


def get_start_stamp(sweep_dir: Path) -> str:
    """The time of the last start or resumption, formatted as in an id."""
    return str(read_record(sweep_dir).get("begun", sweep_dir.name[:TIMESTAMP_LENGTH]))


def format_command(typed: Sequence[str]) -> str:
    """The command that started a sweep, which also resumes it; `typed` are its arguments."""
    if not typed:
        return "the command that it was started with"
    return escape_unprintable(f"python -m recipe {shlex.join(typed)}")


def read_record(sweep_dir: Path) -> dict[str, Any]:
    """Reads sweep.json without fields of a wrong type; a damaged file is empty."""
    try:
        with safe_yaml.open_regular_file(sweep_dir / "sweep.json") as file:
            content = safe_yaml.read_json(file.read())
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {key: value for key, value in content.items() if _has_valid_type(key, value)}


FIELD_TYPES: dict[str, Any] = {
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
def _get_field_adapter(key: str) -> TypeAdapter[Any]:
    return TypeAdapter(FIELD_TYPES[key], config=ConfigDict(strict=True))


def _has_valid_type(key: str, value: object) -> bool:
    try:
        if key in FIELD_TYPES:
            _get_field_adapter(key).validate_python(value)
    except ValidationError:
        return False
    return True


@contextmanager
def edit_record(sweep_dir: Path) -> Iterator[dict[str, Any]]:
    """Yields the content of sweep.json, which is written back unless the block raises; one process
    at a time."""
    with FileLock(sweep_dir / ".json.lock", timeout=60, thread_local=False):
        content = read_record(sweep_dir)
        before = dict(content)
        yield content
        if content != before:
            atomic_write.write_file(
                sweep_dir / "sweep.json", json.dumps(content).encode(), sync=False
            )
