"""Stale records: those of runs and sweeps whose process is gone. They are closed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from recipe.errors import SpecError
from recipe.store import journal, run_dirs, sweep_record
from recipe.store.journal import Journal


def get_last_activity(run_dir: Path) -> int:
    """The time of a run's last write, in milliseconds since 1970."""
    found = [(run_dir / "run.json").stat().st_mtime_ns // 1_000_000]
    for name in ("metrics.jsonl", "events.jsonl"):
        line = journal.read_last_line(run_dir / name)
        if line and isinstance(line.get("time"), int):
            found.append(line["time"])
    return max(found[1:] or found)


def close_stale_run(run_dir: Path) -> bool:
    """Closes a record with status RUNNING whose lock no process holds; returns whether it did.

    The record then ends as KILLED at the time of its last write.
    """
    if run_dirs.read_info_file(run_dir, "run").status != "RUNNING":
        return False
    with run_dirs.try_lock(run_dir) as free:
        info = run_dirs.read_info(run_dir, "run")
        if not free or info.status != "RUNNING":
            return False
        last = journal.read_last_line(run_dir / "events.jsonl") or {}
        status = str(last.get("status", "KILLED"))
        if last.get("kind") != "end":  # else it was killed between writing events and run.json
            status, at = "KILLED", get_last_activity(run_dir)
            events = Journal(run_dir / "events.jsonl")
            events.append({"kind": "end", "time": at, "status": status})
            events.close()
        run_dirs.write_info(run_dir, replace(info, status=status, process=None))
        (run_dir / ".reserve").unlink(missing_ok=True)
        return True


def close_stale_sweep(sweep_dir: Path) -> bool:
    """Closes a stale sweep, but not its runs; returns whether it did."""
    # sweeps of older versions have no lock
    if not (sweep_dir / ".lock").exists() or "end" in (
        sweep_record.read_record(sweep_dir) or {"end": ""}
    ):
        return False
    with run_dirs.try_lock(sweep_dir) as free:
        if not free or "end" in sweep_record.read_record(sweep_dir):
            return False
        jobs = sweep_dir / "jobs.jsonl"
        path = jobs if jobs.exists() else sweep_dir / "sweep.json"
        sweep_record.write_end(sweep_dir, "KILLED", "", path.stat().st_mtime_ns // 1_000_000)
        return True


def close_stale_records(outputs: Path, running: Sequence[Path] | None = None) -> list[Path]:
    """Closes stale records below `outputs`, except damaged and read-only ones; returns their runs.
    `running` are the runs with status RUNNING, if they are known."""
    for sweep in list_record_dirs(outputs / "sweeps", "sweep.json"):
        with contextlib.suppress(SpecError, OSError):
            close_stale_sweep(sweep)
    found = []
    for run in (
        list_record_dirs(run_dirs.get_runs_dir(outputs), "run.json") if running is None else running
    ):
        with contextlib.suppress(SpecError, OSError):  # a full or read-only disk
            found += [run] if close_stale_run(run) else []
    return found


def list_record_dirs(folder: Path, name: str) -> list[Path]:
    """The folders in `folder` that have a file of this name, in the order of their starts."""
    try:
        there = sorted(os.listdir(folder))
    except OSError:
        return []
    return [folder / each for each in there if os.path.lexists(os.path.join(folder, each, name))]
