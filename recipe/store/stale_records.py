"""Runs and sweeps whose process is gone without having said so: their record is closed."""

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
    """When a run last wrote anything, in milliseconds since 1970."""
    found = [(run_dir / "run.json").stat().st_mtime_ns // 1_000_000]
    for name in ("metrics.jsonl", "events.jsonl"):
        line = journal.read_last_line(run_dir / name)
        if line and isinstance(line.get("time"), int):
            found.append(line["time"])
    return max(found[1:] or found)


def close_stale_run(run_dir: Path) -> bool:
    """Whether the run was dead: it says that it is running, but no process holds its lock.

    Its record then ends as KILLED at its last sign of life.
    """
    if run_dirs.read_info_file(run_dir, "run").status != "RUNNING":
        return False
    with run_dirs.try_lock(run_dir) as free:
        info = run_dirs.read_info(run_dir, "run")
        if not free or info.status != "RUNNING":
            return False
        last = journal.read_last_line(run_dir / "events.jsonl") or {}
        status = str(last.get("status", "KILLED"))
        if last.get("kind") != "end":  # else it died between the two things that say how it ended
            status, at = "KILLED", get_last_activity(run_dir)
            events = Journal(run_dir / "events.jsonl")
            events.append({"kind": "end", "time": at, "status": status})
            events.close()
        run_dirs.write_info(run_dir, replace(info, status=status, process=None))
        (run_dir / ".reserve").unlink(missing_ok=True)
        return True


def close_stale_sweep(sweep_dir: Path) -> bool:
    """As `close`, of a sweep: its runs are closed one by one."""
    # those without a lock were recorded before there was one
    if not (sweep_dir / ".lock").exists() or "end" in (
        sweep_record.read_record(sweep_dir) or {"end": ""}
    ):
        return False
    with run_dirs.try_lock(sweep_dir) as free:
        if not free or "end" in sweep_record.read_record(sweep_dir):
            return False
        message = [
            path for path in (sweep_dir / "jobs.jsonl", sweep_dir / "sweep.json") if path.exists()
        ]
        sweep_record.write_end(sweep_dir, "KILLED", "", message[0].stat().st_mtime_ns // 1_000_000)
        return True


def close_stale_records(outputs: Path, running: Sequence[Path] | None = None) -> list[Path]:
    """Closes what is dead below `outputs`; the runs among it. Those that are
    damaged, or can't be written to, are left as they are. `running`: the runs that say they are,
    if that is known."""
    for sweep in list_record_dirs(outputs / "sweeps", "sweep.json"):
        with contextlib.suppress(SpecError, OSError):
            close_stale_sweep(sweep)
    found = []
    for run in (
        list_record_dirs(run_dirs.get_runs_dir(outputs), "run.json") if running is None else running
    ):
        with contextlib.suppress(SpecError, OSError):  # a disk may be full, or only be read
            found += [run] if close_stale_run(run) else []
    return found


def list_record_dirs(folder: Path, name: str) -> list[Path]:
    """The folders in `folder` that hold a file of that name, in the order in which they began."""
    try:
        there = sorted(os.listdir(folder))
    except OSError:
        return []
    return [folder / each for each in there if os.path.lexists(os.path.join(folder, each, name))]
