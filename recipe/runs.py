"""Recorded runs on disk, `<outputs>/runs/<run id>/`, found by id or by name."""

from __future__ import annotations

import contextlib
import json
import secrets
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, FiniteFloat, TypeAdapter, ValidationError

from recipe.errors import SpecError
from recipe.menu import nearest
from recipe.plain import one_line

Text = Annotated[str, AfterValidator(one_line)]

Side = Annotated[int, Field(gt=0, le=10_000)]


@dataclass(frozen=True)
class Facts:
    """What it takes to treat a new image as a run's training images were."""

    classes: tuple[Text, ...]
    channels: Annotated[int, Field(gt=0, le=1000)]
    size: tuple[Side, Side]
    """Height and width, in pixels."""
    mean: tuple[FiniteFloat, ...]
    std: tuple[FiniteFloat, ...]
    """Each one per channel."""


FACTS = TypeAdapter(Facts)


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
    infos = _all(outputs)
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


def _all(outputs: Path) -> dict[Path, dict[str, Any]]:
    """What each recorded run says of itself; a folder whose run.json is none is passed over."""
    infos = {}
    for path in sorted(folder(outputs).glob("*/run.json")):
        with contextlib.suppress(ValueError):
            infos[path.parent] = read(path.parent)
    return infos


def classes(run: Path) -> tuple[str, ...]:
    """Names of the classes a recorded run was trained for. Raises ValueError."""
    return facts(run).classes


def facts(run: Path) -> Facts:
    """What `data.json` says. Raises ValueError where that is not what a run records."""
    try:
        return FACTS.validate_json(_bytes(run / "data.json"))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "content"
        raise ValueError(
            f"run: {run / 'data.json'} is none that a run has written ({key}: {first['msg']}); "
            "use another run"
        ) from error


def read(run: Path) -> dict[str, Any]:
    """What `run.json` says: id, name, status and, once known, the id in MLflow.

    Raises ValueError if it is none.
    """
    content = json.loads(_bytes(run / "run.json"))
    if not isinstance(content, dict) or not isinstance(content.get("name"), str):
        raise ValueError(f"run: {run / 'run.json'} is none that a run has written")
    return content


def _bytes(path: Path) -> bytes:
    if not path.is_file():  # a pipe may never end
        raise ValueError(f"run: there is no {path}; use another run")
    return path.read_bytes()
