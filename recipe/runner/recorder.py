"""The record of a run on disk; another process sends it to MLflow from there.

`<outputs>/runs/<run id>/` holds the journals (`metrics.jsonl`, and `events.jsonl` with parameters,
tags, artifacts, starts and ends), `run.json`, and the artifacts as files.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from recipe import atomic_write
from recipe.errors import RecipeError, SpecError
from recipe.formatting import escape_unprintable
from recipe.store import journal, run_dirs
from recipe.store.journal import Journal

Status = Literal["FINISHED", "FAILED", "KILLED", "PRUNED"]

RESERVED_BYTES = 16_384
"""Kept free on disk for the end of the record, should the disk be full."""


class Recorder:
    """Records one run. What is recorded is on disk when a call returns.

    Raises RecipeError if the disk is full or fails; from then on only `close` has an effect.
    """

    def __init__(
        self,
        output_dir: Path,
        name: str,
        *,
        sweep_dir: Path | None = None,
        fingerprint: str | None = None,
    ) -> None:
        self.run_dir = run_dirs.get_runs_dir(output_dir) / run_dirs.new_run_id()
        sweep_id = sweep_dir.name if sweep_dir else None
        info = run_dirs.RunInfo(
            self.run_dir.name, name, "RUNNING", fingerprint=fingerprint, sweep=sweep_id
        )
        with run_dirs.wrap_output_errors(self.run_dir):
            self.run_dir.mkdir(parents=True)
        self._lock = run_dirs.acquire_lock(self.run_dir, "run")
        self.recorded_metrics: journal.MetricHistory = {}
        """Those recorded before the run was resumed."""
        self.is_started = False
        """Whether `mark_started` was called, also before the run was resumed."""
        self._open(info, "started")

    @classmethod
    def reopen(
        cls, run_dir: Path, *, sweep_dir: Path | None = None, fingerprint: str | None = None
    ) -> Recorder:
        """Resumes a recorded run, which stays the same run in MLflow, too.

        With another fingerprint the run has none from then on, as its numbers belong to several
        specs. Points that are computed again are not recorded again: see `differing_points`. Raises
        SpecError if another process runs the run or has finished it, or its journals are damaged.
        """
        self = cls.__new__(cls)
        self.run_dir, self._lock = run_dir, run_dirs.acquire_lock(run_dir, "run")
        try:
            info = run_dirs.read_info_file(run_dir, "run")
            same = fingerprint == info.fingerprint
            if same and info.status == "FINISHED":
                raise SpecError(f"run: {run_dir.name} was finished by another process meanwhile")
            self.recorded_metrics, self.is_started = read_recorded_metrics(run_dir)
        except SpecError:
            self._lock.release()
            raise
        info = replace(
            info,
            fingerprint=fingerprint if same else None,
            sweep=sweep_dir.name if sweep_dir else info.sweep,
            mlflow_run_id=None,  # stored by the uploader
        )
        self._open(info, "resumed")
        if not same:
            self.set_tags({"recipe.fingerprint": "mixed"})
        return self

    def _open(self, info: run_dirs.RunInfo, kind: str) -> None:
        self._info = replace(info, status="RUNNING", process=os.getpid())
        self.differing_points = 0
        """Points that have another value now that they were computed again."""
        self._has_failed = False
        try:
            self._metrics = Journal(self.run_dir / "metrics.jsonl")
            self._events = Journal(self.run_dir / "events.jsonl")
        except OSError as error:
            self._lock.release()
            raise RecipeError(_describe_write_error(self.run_dir, error)) from error
        try:
            self._try_write(lambda: (self.run_dir / ".reserve").write_bytes(bytes(RESERVED_BYTES)))
            if kind == "started" and (hashed := info.fingerprint):
                self._try_write(lambda: run_dirs.index_fingerprint(self.run_dir, hashed))
            self._try_write(lambda: run_dirs.write_info(self.run_dir, self._info))
            sweep = {"sweep": self._info.sweep} if self._info.sweep else {}
            self._log_event(kind, {"process": os.getpid(), **sweep})
        except BaseException as error:
            self.close("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise

    @property
    def run_id(self) -> str:
        return self._info.id

    def mark_started(self) -> None:
        """Marks the metadata of the run as complete."""
        self._log_event("began", {})
        self.is_started = True

    def log_params(self, values: Mapping[str, Any]) -> None:
        self._log_event("parameters", {key: str(value) for key, value in values.items()})

    def set_tags(self, values: Mapping[str, str]) -> None:
        self._log_event("tags", values)

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Records points at a global step."""
        if self.recorded_metrics:
            values = {key: v for key, v in values.items() if self._is_new(step, key, v)}
        if values:
            line = {"step": step, "time": _now_ms(), "metrics": dict(values)}
            self._try_write(lambda: self._metrics.append(line))

    def _is_new(self, step: int, key: str, value: float) -> bool:
        before = self.recorded_metrics.get(key, {}).get(step)
        if before is None:
            return True
        if (
            key.startswith(journal.NONDETERMINISTIC_PREFIXES)
            or before == value
            or (before != before and value != value)
        ):
            return False
        self.differing_points += 1
        return True

    def write_file(self, name: str, write: Callable[[Path], object]) -> None:
        """Calls `write` with the path of a file in the run's folder."""
        self._try_write(lambda: write(self.run_dir / name))

    def log_text(self, name: str, content: str) -> None:
        self.write_file(
            name, lambda path: atomic_write.write_file(path, content.encode(), sync=False)
        )
        self.log_artifact(name)

    def log_artifact(self, name: str) -> None:
        """Registers a file in the run's folder as an artifact."""
        self._log_event("artifact", {"path": name})

    def fsync(self) -> None:
        """Makes what is recorded so far survive a crash of the machine."""
        self._try_write(self._metrics.sync)
        self._try_write(self._events.sync)

    def close(self, status: Status, error: str = "") -> None:
        """Records the end of the run, and `error` as `error.txt`. Raises nothing."""
        try:
            if error:
                path = self.run_dir / "error.txt"
                self._write_final(lambda: path.write_text(error, encoding="utf-8"))
                self._write_final(
                    lambda: self._events.append(_make_event("artifact", path=path.name))
                )
            self._write_final(lambda: self._events.append(_make_event("end", status=status)))
            info = replace(self._info, status=status, process=None)
            self._write_final(lambda: run_dirs.write_info(self.run_dir, info))
            self._release_reserve()
        finally:
            self._metrics.close()
            self._events.close()
            self._lock.release()

    def _log_event(self, kind: str, content: Mapping[str, Any]) -> None:
        self._try_write(lambda: self._events.append(_make_event(kind, **content)))

    def _try_write(self, write: Callable[[], object]) -> None:
        if self._has_failed:
            return
        try:
            write()
        except OSError as error:
            self._has_failed = True
            raise RecipeError(_describe_write_error(self.run_dir, error)) from error

    def _write_final(self, write: Callable[[], object]) -> None:
        """Writes a part of the end; on a full disk into the reserved space."""
        try:
            write()
        except OSError:
            self._release_reserve()
            with contextlib.suppress(OSError):
                write()

    def _release_reserve(self) -> None:
        with contextlib.suppress(OSError):
            (self.run_dir / ".reserve").unlink(missing_ok=True)


class NullRecorder:
    """Records nothing, in the processes of a shared run besides the first."""

    run_id, run_dir = "", Path(os.devnull)

    def __init__(self) -> None:
        self.recorded_metrics: journal.MetricHistory = {}

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None: ...

    def write_file(self, name: str, write: Callable[[Path], object]) -> None: ...

    def log_text(self, name: str, content: str) -> None: ...

    def log_artifact(self, name: str) -> None: ...

    def fsync(self) -> None: ...


def read_recorded_metrics(run_dir: Path) -> tuple[journal.MetricHistory, bool]:
    """Returns every recorded metric, and whether `mark_started` was called. Raises SpecError."""
    try:
        events = journal.read_lines(run_dir / "events.jsonl")[0]
        return journal.read_metrics(run_dir), any(event.get("kind") == "began" for event in events)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise SpecError(
            f"run: the journals of {run_dir.name} are damaged ({reason}), so it can't be "
            "resumed; its command starts a new run"
        ) from error


def _make_event(kind: str, /, **content: Any) -> dict[str, Any]:
    return {"kind": kind, "time": _now_ms(), **content}


def _describe_write_error(folder: Path, error: OSError) -> str:
    if not (folder / "run.json").is_file():
        return run_dirs.describe_unwritable(folder, error)
    problem = f"output_dir: {escape_unprintable(folder)}: {error.strerror}"
    way_out = "make room, then" if atomic_write.is_disk_full(error) else "fix that, then"
    if not (folder / "spec.yaml").is_file():  # nothing to resume yet
        return f"{problem}; {way_out} start it again"
    resume = run_dirs.format_command(f"resume {folder.name}", folder.parent.parent)
    return f"{problem}; what was recorded before is complete; {way_out} {resume}"


def _now_ms() -> int:
    return int(time.time() * 1000)
