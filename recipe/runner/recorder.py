"""The record of a run: journals on disk first, and MLflow fed from them by a thread of its own.

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
from recipe.formatting import printable
from recipe.mlflow_sync.worker_process import Feed
from recipe.store import journal, run_dirs
from recipe.store.journal import Journal
from recipe.store.upload_state import Sent

Status = Literal["FINISHED", "FAILED", "KILLED", "PRUNED"]

RESERVE = 16_384
"""Bytes on disk that are given up for the end of the record, should the disk be full."""


class Recorder:
    """Records one run. Everything is on disk when a call returns; MLflow follows.

    Raises RecipeError where the disk takes no more; from then on only `close` does anything.
    """

    def __init__(
        self,
        outputs: Path,
        name: str,
        tracking: Tracking,
        *,
        sweep: Path | None = None,
        fingerprint: str | None = None,
    ) -> None:
        self.folder = run_dirs.folder(outputs) / run_dirs.new_id()
        sweep_id = sweep.name if sweep else None
        info = run_dirs.Info(
            self.folder.name, name, "RUNNING", fingerprint=fingerprint, sweep=sweep_id
        )
        with run_dirs.making(self.folder):
            self.folder.mkdir(parents=True)
        self._lock = run_dirs.take(self.folder, "run")
        self.known: journal.Trace = {}
        """What was recorded before the run was taken up."""
        self.began = False
        """Whether `begin` was called, in this process or before the run was taken up again."""
        self._open(info, tracking, "started")

    @classmethod
    def reopen(
        cls,
        folder: Path,
        tracking: Tracking,
        *,
        sweep: Path | None = None,
        fingerprint: str | None = None,
    ) -> Recorder:
        """Takes a recorded run up again: the same run, here and in MLflow.

        With another fingerprint it has none from then on, as its numbers are of no one spec. Points
        that it computes again aren't recorded again: see `differing`. Raises SpecError if another
        process is running it, has finished it meanwhile, or its journals are damaged.
        """
        self = cls.__new__(cls)
        self.folder, self._lock = folder, run_dirs.take(folder, "run")
        try:
            info = run_dirs.read(folder, "run")
            same = fingerprint == info.fingerprint
            if same and info.status == "FINISHED":
                raise SpecError(f"run: {folder.name} was finished by another process meanwhile")
            self.known, self.began = known(folder)
        except SpecError:
            self._lock.release()
            raise
        info = replace(info, fingerprint=fingerprint if same else None)
        self._open(replace(info, sweep=sweep.name if sweep else info.sweep), tracking, "resumed")
        if not same:
            self.tags({"recipe.fingerprint": "mixed"})
        return self

    def _open(self, info: run_dirs.Info, tracking: Tracking, kind: str) -> None:
        self._info = replace(info, status="RUNNING", process=os.getpid())
        self.differing = 0
        """Points that were computed again, and came out otherwise."""
        self.failure: str | None = None
        """Why MLflow lacks a part of the record, if it does."""
        self._feed: Feed | None = None
        self._full = False
        try:
            self._metrics = Journal(self.folder / "metrics.jsonl")
            self._events = Journal(self.folder / "events.jsonl")
        except OSError as error:
            self._lock.release()
            raise RecipeError(_refusal(self.folder, error)) from error
        try:
            self._write(lambda: (self.folder / ".reserve").write_bytes(bytes(RESERVE)))
            if kind == "started" and info.fingerprint:
                self._write(lambda: run_dirs.mark(self.folder, str(info.fingerprint)))
            self._write(lambda: run_dirs.write(self.folder, self._info))
            about = {"process": os.getpid(), "sweep": self._info.sweep}
            self._event(kind, {key: value for key, value in about.items() if value is not None})
            if tracking.uri:
                self._feed = Feed(self.folder, tracking)
                self._feed.start()
            elif Sent.read(self.folder) is None:
                Sent(None).write(self.folder)
        except BaseException as error:
            self.close("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise

    @property
    def id(self) -> str:
        return self._info.id

    @property
    def name(self) -> str:
        return self._info.name

    @property
    def mlflow_run_id(self) -> str | None:
        return self._feed.run_id if self._feed else self._info.mlflow_run_id

    def begin(self) -> None:
        """All that belongs to the run's start is recorded."""
        self._event("began", {})
        self.began = True

    def parameters(self, values: Mapping[str, Any]) -> None:
        self._event("parameters", {key: str(value) for key, value in values.items()})

    def tags(self, values: Mapping[str, str]) -> None:
        self._event("tags", values)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Points at one global step."""
        if self.known:
            values = {key: v for key, v in values.items() if self._is_new(step, key, v)}
        if values:
            line = {"step": step, "time": _now(), "metrics": dict(values)}
            self._write(lambda: self._metrics.write(line))

    def _is_new(self, step: int, key: str, value: float) -> bool:
        before = self.known.get(key, {}).get(step)
        if before is None:
            return True
        if (
            key.startswith(journal.CLOCKED)
            or before == value
            or (before != before and value != value)
        ):
            return False
        self.differing += 1
        return True

    def file(self, name: str, write: Callable[[Path], object]) -> None:
        """Has a file of the run's folder written."""
        self._write(lambda: write(self.folder / name))

    def text(self, name: str, content: str) -> None:
        """Keeps a text as the artifact of that name."""
        self.file(name, lambda path: atomic_write.write(path, content.encode(), sync=False))
        self.artifact(name)

    def artifact(self, name: str) -> None:
        """Keeps a file that lies in the run's folder already."""
        self._event("artifact", {"path": name})

    def sync(self) -> None:
        """What is recorded so far outlives even the machine."""
        self._write(self._metrics.sync)
        self._write(self._events.sync)

    def close(self, status: Status, error: str = "") -> None:
        """Ends the run and waits until MLflow has all of it, or nothing moves any more.

        `error` is kept as `error.txt`. Raises nothing of its own; Ctrl-C ends the waiting.
        """
        try:
            if error:
                self._last(lambda: (self.folder / "error.txt").write_text(error, encoding="utf-8"))
                self._last(lambda: self._events.write(_line("artifact", path="error.txt")))
            self._last(lambda: self._events.write(_line("end", status=status)))
            self._info = replace(self._info, status=status, process=None)
            self._note()
            self._release_reserve()
            if self._feed:
                output.task("sending the record to MLflow")
                self.failure = self._feed.finish()
                self._note()
        finally:
            self._metrics.close()
            self._events.close()
            self._lock.release()

    def _note(self) -> None:
        info = replace(self._info, mlflow_run_id=self.mlflow_run_id)
        self._last(lambda: run_dirs.write(self.folder, info))

    def _event(self, kind: str, content: Mapping[str, Any]) -> None:
        self._write(lambda: self._events.write(_line(kind, **content)))

    def _write(self, write: Callable[[], object]) -> None:
        if self._full:
            return
        try:
            write()
        except OSError as error:
            self._full = True
            raise RecipeError(_refusal(self.folder, error)) from error

    def _last(self, write: Callable[[], object]) -> None:
        """Writes what belongs to the end; on a full disk in the place that was kept for it."""
        try:
            write()
        except OSError:
            self._release_reserve()
            with contextlib.suppress(OSError):
                write()

    def _release_reserve(self) -> None:
        with contextlib.suppress(OSError):
            (self.folder / ".reserve").unlink(missing_ok=True)


def known(folder: Path) -> tuple[journal.Trace, bool]:
    """Every metric recorded so far, and whether the run began. Raises SpecError."""
    try:
        events = journal.read(folder / "events.jsonl")[0]
        return journal.trace(folder), any(event.get("kind") == "began" for event in events)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise SpecError(
            f"run: the journals of {folder.name} are damaged ({reason}), so it can't go on; its "
            "command starts a new run"
        ) from error


def _line(kind: str, /, **content: Any) -> dict[str, Any]:
    return {"kind": kind, "time": _now(), **content}


def _refusal(folder: Path, error: OSError) -> str:
    if not (folder / "run.json").is_file():
        return run_dirs.unwritable(folder, error)
    said = f"output_dir: {printable(folder)}: {error.strerror}"
    first = "make room, then" if atomic_write.is_full(error) else "see to that, then"
    if not (folder / "spec.yaml").is_file():  # there is nothing to go on from yet
        return f"{said}; {first} start it again"
    again = run_dirs.command(f"resume {folder.name}", folder.parent.parent)
    return f"{said}; what was recorded before is whole; {first} {again}"


def _now() -> int:
    return int(time.time() * 1000)
