"""The uploaded parts of a run's journals: `sent.json` in its folder."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from recipe import atomic_write
from recipe.config import safe_yaml
from recipe.store import journal

MAX_PROBLEMS = 20

ByteCount = Annotated[int, Field(ge=0, lt=2**63)]


@dataclass
class UploadState:
    """`metrics` and `events` are the bytes of those journals that MLflow has."""

    uri: str | None
    """MLflow's tracking URI; None: this run is sent nowhere."""
    mlflow_run_id: str | None = None
    metrics: ByteCount = 0
    events: ByteCount = 0
    creation_attempts: ByteCount = 0
    """After more than one, MLflow may have the run twice."""
    problems: list[str] = field(default_factory=list)
    """What MLflow rejected."""
    marks: dict[str, str] = field(default_factory=dict)
    """By journal: a hash of the last line that MLflow has."""
    gone: bool = False
    """Whether the run was deleted in MLflow."""
    failure: str = ""
    """Why the last attempt to send anything failed; empty if it succeeded."""

    @classmethod
    def read(cls, run_dir: Path) -> UploadState | None:
        """Returns None if there is none, or it is damaged."""
        with contextlib.suppress(OSError, ValueError):
            with safe_yaml.open_regular_file(run_dir / "sent.json") as file:
                found = UPLOAD_STATE_ADAPTER.validate_json(file.read())
            found._reset_replaced_journals(run_dir)
            return found
        return None

    @staticmethod
    def is_complete(run_dir: Path) -> bool:
        """Whether MLflow has both journals to their end, by their sizes alone, or the run is not
        sent to MLflow."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            with safe_yaml.open_regular_file(run_dir / "sent.json") as file:
                found = safe_yaml.read_json(file.read())
            return found["uri"] is None or all(
                found[name] == (run_dir / f"{name}.jsonl").stat().st_size
                for name in ("metrics", "events")
            )
        return False

    def _reset_replaced_journals(self, run_dir: Path) -> None:
        """Restarts the upload of a journal that was truncated or replaced."""
        for name in ("metrics", "events"):
            mark = journal.hash_line(run_dir / f"{name}.jsonl", getattr(self, name))
            if mark is None or self.marks.get(name, mark) != mark:
                setattr(self, name, 0)

    def reset(self) -> None:
        """Restarts the upload."""
        self.mlflow_run_id, self.metrics, self.events, self.creation_attempts = None, 0, 0, 0
        self.problems, self.gone, self.failure = [], False, ""

    @classmethod
    def read_for_uri(cls, uri: str | None, run_dir: Path) -> UploadState:
        """Returns the state for that server: a new one if the run was sent to another before."""
        found = cls.read(run_dir)
        return found if found is not None and found.uri == uri else cls(uri)

    def write(self, run_dir: Path) -> None:
        """Raises nothing: what isn't stored is sent again, which duplicates nothing."""
        for name in ("metrics", "events"):
            self.marks[name] = (
                journal.hash_line(run_dir / f"{name}.jsonl", getattr(self, name)) or ""
            )
        with contextlib.suppress(OSError):
            content = json.dumps(asdict(self)).encode() + b"\n"
            atomic_write.write_file(run_dir / "sent.json", content, sync=False)

    def add_problem(self, problem: str) -> None:
        if problem not in self.problems and len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)

    def describe_unsent(self, run_dir: Path) -> str:
        """Returns the number of unsent lines as text, empty for none. Raises
        DamagedJournalError."""
        if self.uri is None:
            return ""
        found = []
        for name, done in (("events.jsonl", self.events), ("metrics.jsonl", self.metrics)):
            lines = journal.count_lines(run_dir / name, done)
            found += [f"{lines:,} of {name}"] if lines else []
        return f"lines: {' and '.join(found)}" if found else ""


UPLOAD_STATE_ADAPTER = TypeAdapter(UploadState)
