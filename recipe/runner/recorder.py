"""The record of a run on disk; another process sends it to MLflow from there.

`<outputs>/runs/<run id>/` holds the journals (`metrics.jsonl` for metrics, `events.jsonl` for
parameters, tags, artifacts and the ends; only ever appended to, a whole line at a time),
`run.json`, `sent.json` and the artifacts as files. Training never waits for MLflow.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from recipe import atomic_write, output
from recipe.components.tracking import Tracking
from recipe.errors import RecipeError, SpecError
from recipe.formatting import escape_unprintable
from recipe.mlflow_sync.upload_queue import UploadQueue
from recipe.store import journal, run_dirs
from recipe.store.journal import Journal
from recipe.store.upload_state import UploadState

Status = Literal["FINISHED", "FAILED", "KILLED", "PRUNED"]

RESERVED_BYTES = 16_384
"""Bytes on disk that are given up for the end of the record, should the disk be full."""


class Recorder:
    """Records one run. Everything is on disk when a call returns; MLflow follows.

    Raises RecipeError where the disk takes no more; from then on only `close` does anything.
    """

    def __init__(
        self,
        output_dir: Path,
        name: str,
        tracking: Tracking,
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
        """What was recorded before the run was taken up."""
        self.is_started = False
        """Whether `begin` was called, in this process or before the run was taken up again."""
        self._open(info, tracking, "started")

    @classmethod
    def reopen(
        cls,
        run_dir: Path,
        tracking: Tracking,
        *,
        sweep_dir: Path | None = None,
        fingerprint: str | None = None,
    ) -> Recorder:
        """Takes a recorded run up again: the same run, here and in MLflow.

        With another fingerprint it has none from then on, as its numbers are of no one spec. Points
        that it computes again aren't recorded again: see `differing`. Raises SpecError if another
        process is running it, has finished it meanwhile, or its journals are damaged.
        """
        self = cls.__new__(cls)
        self.run_dir, self._lock = run_dir, run_dirs.acquire_lock(run_dir, "run")
        try:
            info = run_dirs.read_info(run_dir, "run")
            same = fingerprint == info.fingerprint
            if same and info.status == "FINISHED":
                raise SpecError(f"run: {run_dir.name} was finished by another process meanwhile")
            self.recorded_metrics, self.is_started = read_recorded_metrics(run_dir)
        except SpecError:
            self._lock.release()
            raise
        info = replace(info, fingerprint=fingerprint if same else None)
        self._open(
            replace(info, sweep=sweep_dir.name if sweep_dir else info.sweep), tracking, "resumed"
        )
        if not same:
            self.set_tags({"recipe.fingerprint": "mixed"})
        return self

    def _open(self, info: run_dirs.RunInfo, tracking: Tracking, kind: str) -> None:
        self._info = replace(info, status="RUNNING", process=os.getpid())
        self.differing_points = 0
        """Points that were computed again, and came out otherwise."""
        self.upload_failure: str | None = None
        """Why MLflow lacks a part of the record, if it does."""
        self._tracking = tracking
        self._uploads = UploadQueue(self.run_dir.parent.parent, tracking)
        self._is_disk_full = False
        try:
            self._metrics = Journal(self.run_dir / "metrics.jsonl")
            self._events = Journal(self.run_dir / "events.jsonl")
        except OSError as error:
            self._lock.release()
            raise RecipeError(_describe_write_error(self.run_dir, error)) from error
        try:
            self._try_write(lambda: (self.run_dir / ".reserve").write_bytes(bytes(RESERVED_BYTES)))
            if kind == "started" and info.fingerprint:
                self._try_write(
                    lambda: run_dirs.index_fingerprint(self.run_dir, str(info.fingerprint))
                )
            self._try_write(lambda: run_dirs.write_info(self.run_dir, self._info))
            about = {"process": os.getpid(), "sweep": self._info.sweep}
            self._log_event(kind, {key: value for key, value in about.items() if value is not None})
            if tracking.uri is None and UploadState.read(self.run_dir) is None:
                UploadState(None).write(self.run_dir)
            self._uploads.request(self.run_dir)
        except BaseException as error:
            self.close("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise

    @property
    def run_id(self) -> str:
        return self._info.id

    @property
    def name(self) -> str:
        return self._info.name

    @property
    def mlflow_run_id(self) -> str | None:
        state = UploadState.read_for_uri(self._tracking.uri, self.run_dir)
        return state.mlflow_run_id if self._tracking.uri else self._info.mlflow_run_id

    def mark_started(self) -> None:
        """All that belongs to the run's start is recorded."""
        self._log_event("began", {})
        self.is_started = True

    def log_params(self, values: Mapping[str, Any]) -> None:
        self._log_event("parameters", {key: str(value) for key, value in values.items()})

    def set_tags(self, values: Mapping[str, str]) -> None:
        self._log_event("tags", values)

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Points at one global step."""
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
        """Has a file of the run's folder written."""
        self._try_write(lambda: write(self.run_dir / name))

    def log_text(self, name: str, content: str) -> None:
        """Keeps a text as the artifact of that name."""
        self.write_file(
            name, lambda path: atomic_write.write_file(path, content.encode(), sync=False)
        )
        self.log_artifact(name)

    def log_artifact(self, name: str) -> None:
        """Keeps a file that lies in the run's folder already."""
        self._log_event("artifact", {"path": name})

    def fsync(self) -> None:
        """What is recorded so far outlives even the machine."""
        self._try_write(self._metrics.sync)
        self._try_write(self._events.sync)

    def close(self, status: Status, error: str = "", *, wait_for_upload: bool = True) -> None:
        """Ends the run and waits until MLflow has all of it, or makes no progress.

        `error` is kept as `error.txt`. A sweep waits for the uploads of its runs itself. Raises
        nothing; Ctrl-C ends the waiting.
        """
        try:
            if error:
                self._write_final(
                    lambda: (self.run_dir / "error.txt").write_text(error, encoding="utf-8")
                )
                self._write_final(
                    lambda: self._events.append(_make_event("artifact", path="error.txt"))
                )
            self._write_final(lambda: self._events.append(_make_event("end", status=status)))
            self._info = replace(self._info, status=status, process=None)
            self._write_info()
            self._release_reserve()
            if self._tracking.uri and wait_for_upload:
                output.set_current_task("sending the record to MLflow")
                self.upload_failure = self._uploads.wait([self.run_dir]).get(self.run_dir)
                self._write_info()
        finally:
            self._uploads.close()
            self._metrics.close()
            self._events.close()
            self._lock.release()

    def _write_info(self) -> None:
        info = replace(self._info, mlflow_run_id=self.mlflow_run_id)
        self._write_final(lambda: run_dirs.write_info(self.run_dir, info))

    def _log_event(self, kind: str, content: Mapping[str, Any]) -> None:
        self._try_write(lambda: self._events.append(_make_event(kind, **content)))

    def _try_write(self, write: Callable[[], object]) -> None:
        if self._is_disk_full:
            return
        try:
            write()
        except OSError as error:
            self._is_disk_full = True
            raise RecipeError(_describe_write_error(self.run_dir, error)) from error

    def _write_final(self, write: Callable[[], object]) -> None:
        """Writes what belongs to the end; on a full disk in the place that was kept for it."""
        try:
            write()
        except OSError:
            self._release_reserve()
            with contextlib.suppress(OSError):
                write()

    def _release_reserve(self) -> None:
        with contextlib.suppress(OSError):
            (self.run_dir / ".reserve").unlink(missing_ok=True)


def read_recorded_metrics(run_dir: Path) -> tuple[journal.MetricHistory, bool]:
    """Every metric recorded so far, and whether the run began. Raises SpecError."""
    try:
        events = journal.read_lines(run_dir / "events.jsonl")[0]
        return journal.read_metrics(run_dir), any(event.get("kind") == "began" for event in events)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise SpecError(
            f"run: the journals of {run_dir.name} are damaged ({reason}), so it can't go on; its "
            "command starts a new run"
        ) from error


def _make_event(kind: str, /, **content: Any) -> dict[str, Any]:
    return {"kind": kind, "time": _now_ms(), **content}


def _describe_write_error(folder: Path, error: OSError) -> str:
    if not (folder / "run.json").is_file():
        return run_dirs.describe_unwritable(folder, error)
    said = f"output_dir: {escape_unprintable(folder)}: {error.strerror}"
    first = "make room, then" if atomic_write.is_disk_full(error) else "see to that, then"
    if not (folder / "spec.yaml").is_file():  # there is nothing to go on from yet
        return f"{said}; {first} start it again"
    again = run_dirs.format_command(f"resume {folder.name}", folder.parent.parent)
    return f"{said}; what was recorded before is whole; {first} {again}"


def _now_ms() -> int:
    return int(time.time() * 1000)
