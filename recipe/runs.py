"""Recorded runs on disk, `<outputs>/runs/<run id>/`, found by id or by name."""

from __future__ import annotations

import json
import secrets
from datetime import datetime
from pathlib import Path
from typing import Any

from recipe.errors import SpecError
from recipe.menu import nearest


def new_id() -> str:
    """A new run's id: when it started, to the second, and six random digits. Sorts by time."""
    return f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def folder(outputs: Path) -> Path:
    return outputs / "runs"


def find(outputs: Path, wanted: str, key: str) -> Path:
    """The folder of a recorded run.

    `wanted` is its id, the beginning of one, its id in MLflow, or its name (then the latest run
    of that name). Raises SpecError, headed by `key`.
    """
    infos = {path.parent: read(path.parent) for path in sorted(folder(outputs).glob("*/run.json"))}
    by_id = [path for path in infos if path.name.startswith(wanted)]
    if len(by_id) == 1:
        return by_id[0]
    if len(by_id) > 1 and wanted:
        raise SpecError(f"{key}: {wanted} begins {len(by_id)} run ids; give more of it")
    same = [
        path for path, info in infos.items() if wanted in (info["name"], info.get("mlflow_run_id"))
    ]
    if same:
        return same[-1]
    names = [path.name for path in infos] + [info["name"] for info in infos.values()]
    raise SpecError(
        f"{key}: no run {wanted!r} is recorded in {folder(outputs)}{nearest(wanted, names)}"
    )


def classes(run: Path) -> tuple[str, ...]:
    """Names of the classes a recorded run was trained for."""
    return tuple(json.loads((run / "data.json").read_text(encoding="utf-8"))["classes"])


def read(run: Path) -> dict[str, Any]:
    """What `run.json` says: id, name, status and, once known, the id in MLflow."""
    content: dict[str, Any] = json.loads((run / "run.json").read_text(encoding="utf-8"))
    return content
