"""Earlier runs with the same fingerprint, and their states."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import Timeout
from rich.console import Console

from recipe.compare import run_agreement
from recipe.config.spec import RunSpec
from recipe.errors import SpecError
from recipe.runner import recorder
from recipe.store import run_dirs
from recipe.store.run_dirs import RunInfo


@dataclass(frozen=True)
class EarlierRuns:
    """The folders of the runs with one fingerprint, by state."""

    fingerprint: str
    finished_run_dir: Path | None = None
    """The newest finished run."""
    interrupted_run_dir: Path | None = None
    """The newest run, if it was killed."""
    running_run_dir: Path | None = None
    """The newest run, if its process is alive."""
    damage: str | None = None
    """Why the newest run can't be resumed, if it was killed and its record is damaged."""
    source_checkpoint: Path | None = None
    """A checkpoint of a run with another spec, from which this one starts."""


def find_earlier_runs(spec: RunSpec, fingerprint: str) -> EarlierRuns:
    """As `read_earlier_runs`; with `again` in the spec, no interrupted run is resumed."""
    found = read_earlier_runs(spec.output_path, fingerprint)
    return replace(found, interrupted_run_dir=None, damage=None) if spec.again else found


@contextlib.contextmanager
def claim_fingerprint(spec: RunSpec, fingerprint: str) -> Iterator[EarlierRuns | None]:
    """Yields `find_earlier_runs` under a lock, so that of two processes only one starts a run;
    yields None if another process has the lock, unless the spec has `again`."""
    folder = run_dirs.get_fingerprint_dir(spec.output_path, fingerprint)
    folder.mkdir(parents=True, exist_ok=True)
    lock = run_dirs.get_lock(folder)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield find_earlier_runs(spec, fingerprint) if spec.again else None
        return
    try:
        yield find_earlier_runs(spec, fingerprint)
    finally:
        lock.release()


def read_earlier_runs(output_dir: Path, fingerprint: str) -> EarlierRuns:
    """Failed runs, and those whose run.json is damaged or has another fingerprint, are ignored."""
    known: list[tuple[Path, RunInfo]] = []
    for marker in sorted(run_dirs.get_fingerprint_dir(output_dir, fingerprint).glob("*")):
        folder = run_dirs.get_runs_dir(output_dir) / marker.name
        with contextlib.suppress(SpecError):
            info = run_dirs.read_info_file(folder, "run")
            if info.fingerprint == fingerprint:
                known.append((folder, info))
    finished = [folder for folder, info in known if info.status == "FINISHED"]
    newest = known[-1] if known else None
    state = newest[1].status if newest else None
    if newest and state == "RUNNING" and not run_dirs.is_running(newest[0]):
        state = "KILLED"  # before it could record its end
    stopped, damaged = newest[0] if newest and state == "KILLED" else None, None
    if stopped:
        try:
            recorder.read_recorded_metrics(stopped)
        except SpecError as error:
            stopped, damaged = None, str(error).removeprefix("run: ")
    return EarlierRuns(
        fingerprint,
        finished_run_dir=finished[-1] if finished else None,
        interrupted_run_dir=stopped,
        damage=damaged,
        running_run_dir=newest[0] if newest and state == "RUNNING" else None,
    )


def print_agreement(console: Console, earlier_runs: EarlierRuns, run_dir: Path) -> None:
    """Prints whether the numbers are those of the finished run that had the same fingerprint."""
    if earlier_runs.finished_run_dir:
        agrees = run_agreement.compare_runs(earlier_runs.finished_run_dir, run_dir).summary
        console.print(f"Again   as {earlier_runs.finished_run_dir.name}: {agrees}", soft_wrap=True)
