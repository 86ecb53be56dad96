"""What the files of a recorded run hold, read with care: any of them may be missing or damaged.

A run's folder may come from anyone, so nothing is read that isn't an ordinary file of a sensible
size, and texts are fit to be printed.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from recipe.config import safe_yaml
from recipe.config.option_files import GROUPS
from recipe.config.renamed_targets import with_current_targets
from recipe.config.spec import flatten
from recipe.errors import SpecError
from recipe.formatting import escape_unprintable
from recipe.store import journal, run_dirs

MAX_FILE_BYTES = 2**28
"""Bytes of a file."""

MAX_PARAMETERS = 100_000
"""Of a model, that are looked at."""

MAX_TEXT_LENGTH = 200
"""Characters of a text that is shown."""

READ_ERRORS = (
    SpecError, ValueError, OSError, LookupError, TypeError, AttributeError, YAMLError,
    OmegaConfBaseException,
)  # fmt: skip
"""What reading a damaged file raises."""

T = TypeVar("T")


@dataclass(frozen=True)
class RunRecord:
    run_dir: Path
    name: str
    status: str
    """RUNNING, FINISHED, FAILED, KILLED or PRUNED; `unknown` if run.json doesn't say."""
    settings: Mapping[str, Any]
    """What ran: options under the group's name, settings under their dotted key."""
    tags: Mapping[str, str]
    environment: Mapping[str, str]
    """The lines of environment.txt; packages aren't among them, as the tags have them."""
    dataset_info: run_dirs.DatasetInfo | None
    data_digest: str | None
    """Of the data."""
    parameters: Mapping[str, Mapping[str, str]]
    """The lines of parameters.csv by the parameter's name."""
    metrics: journal.MetricHistory
    problems: list[str] = field(default_factory=list)
    """What is missing or can't be read: `name: reason`."""

    @property
    def package_versions(self) -> dict[str, str]:
        return {k.partition(".")[2]: v for k, v in self.tags.items() if k.startswith("version.")}

    @property
    def code_versions(self) -> dict[str, str]:
        """What stands for the code of other packages: a version, or a hash of 64 digits."""
        return {k.partition(".")[2]: v for k, v in self.tags.items() if k.startswith("code.")}


def read_record(run_dir: Path) -> RunRecord:
    """Whatever of a run can be read; what can't is named in `damaged`."""
    damaged: list[str] = []

    def attempt(name: str, reader: Callable[[Path], T], instead: T) -> T:
        try:
            return reader(_check_file(run_dir / name))
        except READ_ERRORS as error:
            reason = " ".join(str(error).split()).removeprefix(f"{run_dir / name}: ")
            damaged.append(f"{name}: {truncate_value(reason)}")
        except (RecursionError, OverflowError):
            damaged.append(f"{name}: holds what is nested too deeply, or too large a number")
        return instead

    info = attempt("run.json", lambda path: run_dirs.read_info(path.parent, "run"), None)
    data = attempt(
        "data.json",
        lambda path: (run_dirs.read_dataset_info(path.parent, "data"), _read_digest(path)),
        None,
    )
    return RunRecord(
        run_dir=run_dir,
        name=truncate_value(info.name if info else run_dir.name),
        status=truncate_value(info.status if info else "unknown"),
        settings=attempt("spec.yaml", _read_settings, {}),
        tags=attempt("events.jsonl", _read_tags, {}),
        environment=attempt("environment.txt", _read_environment, {}),
        dataset_info=data[0] if data else None,
        data_digest=data[1] if data else None,
        parameters=attempt("parameters.csv", _read_parameters, {}),
        metrics=attempt("metrics.jsonl", _read_metrics, {}),
        problems=damaged,
    )


def truncate_value(value: object) -> str:
    """A value as it is shown: in a line, and no longer than fits one."""
    text = value if isinstance(value, str) else json.dumps(value)
    text = escape_unprintable(text[: MAX_TEXT_LENGTH + 1])
    return text if len(text) <= MAX_TEXT_LENGTH else f"{text[: MAX_TEXT_LENGTH - 3]}..."


def _check_file(path: Path) -> Path:
    """Raises ValueError unless it is an ordinary file of a sensible size."""
    if not path.is_file():
        raise ValueError("is no file" if path.exists() else "is missing")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"is larger than {MAX_FILE_BYTES:,} bytes")
    return path


def _read_settings(path: Path) -> dict[str, Any]:
    content = safe_yaml.load(path)
    if not isinstance(content, dict) or not isinstance(content.get("options"), dict):
        raise ValueError("is no run's spec (it has no options)")
    options = {
        str(group): truncate_value(option) for group, option in content.pop("options").items()
    }
    flat: dict[str, Any] = {}
    for key, value in with_current_targets(content).items():
        flat |= flatten(str(key), value)
    return {**{group: options[group] for group in GROUPS if group in options}, **flat}


def _read_tags(path: Path) -> dict[str, str]:
    """The later of two values of a tag counts."""
    return {
        truncate_value(key): truncate_value(value)
        for line in journal.read_lines(path)[0]
        if line.get("kind") == "tags"
        for key, value in line.items()
        if key not in ("kind", "time")
    }


def _read_parameters(path: Path) -> dict[str, dict[str, str]]:
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            lines = list(itertools.islice(csv.DictReader(file), MAX_PARAMETERS))
    except csv.Error as error:
        raise ValueError(str(error)) from error
    return {
        truncate_value(line.pop("name")): {
            truncate_value(key): truncate_value(value)
            for key, value in line.items()
            if key and value is not None
        }
        for line in lines
    }


def _read_environment(path: Path) -> dict[str, str]:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    pairs = [line.partition(": ") for line in lines[:100]]
    return {truncate_value(key): truncate_value(value) for key, colon, value in pairs if colon}


def _read_digest(path: Path) -> str:
    return truncate_value(safe_yaml.read_json(path.read_bytes())["digest"])


def _read_metrics(path: Path) -> journal.MetricHistory:
    found = journal.read_metrics(path.parent)
    for values in found.values():
        for step, value in values.items():
            if type(step) is not int or type(value) not in (int, float):
                raise ValueError("holds points that are no numbers")
    return {
        truncate_value(key): {step: float(value) for step, value in values.items()}
        for key, values in found.items()
    }
