"""Recorded runs on disk, `<outputs>/runs/<run id>/`, found by id or by name."""

from __future__ import annotations

import json
import secrets
from datetime import datetime
from pathlib import Path
from typing import Any

from recipe.errors import SpecError
from recipe.menu import nearest
from recipe.wording import printable


def new_id() -> str:
    """A new run's id: when it started, to the second, and six random digits. Sorts by time."""
    return f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def folder(outputs: Path) -> Path:
    return outputs / "runs"


def find(outputs: Path, wanted: str, key: str) -> Path:
    """The folder of a recorded run.

    `wanted` is its id, the beginning of one, its id in MLflow, or its name (then the latest run
    of that name). Raises SpecError, headed by `key`, if there is none, or its run.json is damaged;
    one that is damaged elsewhere is in nobody's way.
    """
    there = [path.parent for path in sorted(folder(outputs).glob("*/run.json"))]
    by_id = [run for run in there if run.name.startswith(wanted)]
    if len(by_id) == 1:
        read(by_id[0], key)
        return by_id[0]
    if len(by_id) > 1 and wanted:
        raise SpecError(f"{key}: {wanted} begins {len(by_id)} run ids; give more of it")
    infos = {}
    for run in there:
        try:
            infos[run] = read(run, key)
        except SpecError:
            continue
    same = [
        run for run, info in infos.items() if wanted in (info["name"], info.get("mlflow_run_id"))
    ]
    if same:
        return same[-1]
    names = [run.name for run in there] + [info["name"] for info in infos.values()]
    damaged = len(there) - len(infos)
    raise SpecError(
        f"{key}: no run {wanted!r} is recorded in {folder(outputs)}{nearest(wanted, names)}"
        + (f" (in {damaged} of {len(there)} folders run.json is damaged)" if damaged else "")
    )


def classes(run: Path, key: str) -> tuple[str, ...]:
    """Names of the classes a recorded run was trained for. Raises SpecError, headed by `key`."""
    return tuple(facts(run, key)["classes"])


def facts(run: Path, key: str) -> dict[str, Any]:
    """What `data.json` says: how the run's images were treated, and what they show.

    Raises SpecError, headed by `key`, if it can't be read.
    """
    kinds = {"classes": list, "channels": int, "size": list, "mean": list, "std": list}
    return _content(run / "data.json", key, kinds)


def read(run: Path, key: str) -> dict[str, Any]:
    """What `run.json` says: id, name, status and, once known, the id in MLflow.

    Raises SpecError, headed by `key`, if it can't be read.
    """
    return _content(run / "run.json", key, {"id": str, "name": str, "status": str})


def _content(path: Path, key: str, kinds: dict[str, type]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{key}: {printable(path)} can't be read: {error.strerror}") from error
    except ValueError as error:  # bytes that are no text, text that is no JSON
        raise SpecError(
            f"{key}: {printable(path)} is damaged ({error}); use another run"
        ) from error
    except RecursionError as error:
        raise SpecError(f"{key}: {printable(path)} is damaged; use another run") from error
    for name, kind in kinds.items():
        if not isinstance(content, dict) or not isinstance(content.get(name), kind):
            raise SpecError(
                f"{key}: {printable(path)} is damaged (it has no {name}); use another run"
            )
    return dict(content)
