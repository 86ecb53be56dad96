"""A recorded run, read lazily and with care: any of its files may be missing or damaged.

The folder of a run may come from anyone, so only ordinary files of limited size are read, and
texts are escaped and truncated for printing.
"""

from __future__ import annotations

import csv
import functools
import itertools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from recipe.config import safe_yaml
from recipe.config.groups import GROUPS
from recipe.config.renamed_targets import with_current_targets
from recipe.config.spec import flatten
from recipe.errors import SpecError
from recipe.formatting import escape_unprintable
from recipe.store import journal, run_dirs

MAX_FILE_BYTES = 2**28

MAX_PARAMETERS = 100_000

MAX_TEXT_LENGTH = 200

MAX_STEP_DIGITS = 18

EVENTS_HEAD_BYTES = 100_000
"""The tags of the start of a run are within these first bytes of its events."""

READ_ERRORS = (
    SpecError, ValueError, OSError, LookupError, TypeError, AttributeError, YAMLError,
    OmegaConfBaseException,
)  # fmt: skip
"""Exceptions that reading a damaged file can raise."""

HASH_PATTERN = re.compile(r"[0-9a-f]{64}")

T = TypeVar("T")


@dataclass(frozen=True)
class RunProgress:
    step: int | None
    """The last recorded global step; None if it is unknown, as `total_steps`."""
    total_steps: int | None

    def __str__(self) -> str:
        step = "-" if self.step is None else f"{self.step}"
        return f"{step} of {self.total_steps}" if self.total_steps else step

    @property
    def fraction(self) -> float:
        """The completed fraction of the run, from 0 to 1; 0 if it is unknown."""
        return min(1.0, (self.step or 0) / self.total_steps) if self.total_steps else 0.0


@dataclass(frozen=True)
class CodeVersion:
    """The version of a package whose code was used, or a hash of its files if it has none."""

    text: str
    is_hash: bool

    def __str__(self) -> str:
        return self.text[:12] if self.is_hash else self.text


class RunRecord:
    """The files of a recorded run. Each is read when a property first needs it, and once; what a
    missing or damaged file would hold is empty, and `problems` names the file."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.known_problems: dict[str, str] = {}
        """The problems of the files that were read so far: reasons by file name."""

    @property
    def problems(self) -> dict[str, str]:
        """The files that are missing or can't be read, each with the reason. Reads all files."""
        readers: dict[str, object] = {
            "run.json": self.info, "data.json": self._data, "spec.yaml": self.settings,
            "events.jsonl": self.events, "environment.txt": self.environment,
            "parameters.csv": self.parameters, "metrics.jsonl": self.metrics,
        }  # fmt: skip
        return {name: self.known_problems[name] for name in readers if name in self.known_problems}

    @functools.cached_property
    def info(self) -> run_dirs.RunInfo | None:
        return self._read(
            "run.json", lambda path: run_dirs.read_info_file(path.parent, "run"), None
        )

    @property
    def name(self) -> str:
        return truncate_value(self.info.name if self.info else self.run_dir.name)

    @property
    def status(self) -> str:
        """RUNNING, FINISHED, FAILED, KILLED or PRUNED; `unknown` without a readable run.json."""
        return truncate_value(self.info.status if self.info else "unknown")

    @functools.cached_property
    def settings(self) -> Mapping[str, Any]:
        """The spec: options by group, settings by dotted key."""
        return self._read("spec.yaml", _read_settings, {})

    @functools.cached_property
    def events(self) -> list[dict[str, Any]]:
        return self._read("events.jsonl", lambda path: journal.read_lines(path)[0], [])

    @functools.cached_property
    def tags(self) -> Mapping[str, str]:
        return {
            truncate_value(key): truncate_value(value)
            for key, value in self.merge_events("tags").items()
        }

    def merge_events(self, kind: str) -> dict[str, Any]:
        """The content of all events of a kind; the latest value of a key counts."""
        return {
            key: value
            for event in self.events
            if event.get("kind") == kind
            for key, value in event.items()
            if key not in ("kind", "time")
        }

    @functools.cached_property
    def environment(self) -> Mapping[str, str]:
        """The lines of environment.txt, without the packages, which are among the tags."""
        return self._read("environment.txt", _read_environment, {})

    @property
    def dataset_info(self) -> run_dirs.DatasetInfo | None:
        return self._data[0] if self._data else None

    @property
    def data_digest(self) -> str | None:
        return self._data[1] if self._data else None

    @functools.cached_property
    def parameters(self) -> Mapping[str, Mapping[str, str]]:
        """The lines of parameters.csv by the name of the parameter."""
        return self._read("parameters.csv", _read_parameters, {})

    @functools.cached_property
    def metrics(self) -> journal.MetricHistory:
        return self._read("metrics.jsonl", _read_metrics, {})

    @property
    def package_versions(self) -> dict[str, str]:
        return {k.partition(".")[2]: v for k, v in self.tags.items() if k.startswith("version.")}

    @property
    def code_versions(self) -> dict[str, CodeVersion]:
        return {
            key.partition(".")[2]: CodeVersion(text, bool(HASH_PATTERN.fullmatch(text)))
            for key, text in self.tags.items()
            if key.startswith("code.")
        }

    @property
    def progress(self) -> RunProgress:
        """The progress of a run that may be running; reads only the ends of its journals."""
        last = journal.read_last_line(self.run_dir / "metrics.jsonl") or {}
        try:
            head = journal.read_lines(self.run_dir / "events.jsonl", 0, EVENTS_HEAD_BYTES)[0]
        except ValueError:
            head = []
        steps = next((event["recipe.steps"] for event in head if "recipe.steps" in event), None)
        return RunProgress(_parse_step(last.get("step")), _parse_step(steps))

    @functools.cached_property
    def _data(self) -> tuple[run_dirs.DatasetInfo, str] | None:
        def read(path: Path) -> tuple[run_dirs.DatasetInfo, str]:
            digest = safe_yaml.read_json(path.read_bytes())["digest"]
            return run_dirs.read_dataset_info(path.parent, "data"), truncate_value(digest)

        return self._read("data.json", read, None)

    def _read(self, name: str, reader: Callable[[Path], T], default: T) -> T:
        path = self.run_dir / name
        try:
            return reader(_check_file(path))
        except READ_ERRORS as error:
            reason = " ".join(str(error).split()).removeprefix(f"{path}: ")
            self.known_problems[name] = truncate_value(reason)
        except (RecursionError, OverflowError):
            self.known_problems[name] = "holds what is nested too deeply, or too large a number"
        return default


def truncate_value(value: object) -> str:
    """A value as text for printing: on one line, of limited length."""
    text = value if isinstance(value, str) else json.dumps(value)
    text = escape_unprintable(text[: MAX_TEXT_LENGTH + 1])
    return text if len(text) <= MAX_TEXT_LENGTH else f"{text[: MAX_TEXT_LENGTH - 3]}..."


def _check_file(path: Path) -> Path:
    """Raises ValueError unless it is an ordinary file of limited size."""
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


def _parse_step(value: object) -> int | None:
    text = str(value)
    return int(text) if text.isdecimal() and len(text) <= MAX_STEP_DIGITS else None
