"""Earlier runs that had the same fingerprint, and what became of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import Timeout

from recipe.config.spec import RunSpec
from recipe.errors import SpecError
from recipe.runner import recorder
from recipe.store import run_dirs
from recipe.store.run_dirs import RunInfo


@dataclass(frozen=True)
class EarlierRuns:
    """What became of the runs of one fingerprint; each a run's folder, or None."""

    fingerprint: str
    finished_run_dir: Path | None = None
    """The newest one that did."""
    interrupted_run_dir: Path | None = None
    """The newest run of all, if it was killed."""
    running_run_dir: Path | None = None
    """The newest run of all, if it is going on in some process."""
    damage: str | None = None
    """Why the newest run of all can't go on, though it was killed."""
    source_checkpoint: Path | None = None
    """The checkpoint of another run, under another spec."""


def find_earlier_runs(spec: RunSpec, fingerprint: str) -> EarlierRuns:
    """What became of those of this fingerprint; none is taken up if the spec says `again`."""
    found = read_earlier_runs(spec.output_path, fingerprint)
    return replace(found, interrupted_run_dir=None, damage=None) if spec.again else found


@contextlib.contextmanager
def claim_fingerprint(spec: RunSpec, fingerprint: str) -> Iterator[EarlierRuns | None]:
    """As `of`, and None if another process is within such a block for the same fingerprint: of
    two that would start the same run at the same moment only one does."""
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
    """A run that failed counts for nothing, as one whose run.json is damaged or is another's."""
    known: list[tuple[Path, RunInfo]] = []
    for mark in sorted(run_dirs.get_fingerprint_dir(output_dir, fingerprint).glob("*")):
        folder = run_dirs.get_runs_dir(output_dir) / mark.name
        with contextlib.suppress(SpecError):
            info = run_dirs.read_info(folder, "run")
            if info.fingerprint == fingerprint:
                known.append((folder, info))
    done = [folder for folder, info in known if info.status == "FINISHED"]
    newest = known[-1] if known else None
    state = newest[1].status if newest else None
    if newest and state == "RUNNING" and not run_dirs.is_running(newest[0]):
        state = "KILLED"  # without a chance to say so
    stopped, damaged = newest[0] if newest and state == "KILLED" else None, None
    if stopped:
        try:
            recorder.read_recorded_metrics(stopped)
        except SpecError as error:
            stopped, damaged = None, str(error).removeprefix("run: ")
    return EarlierRuns(
        fingerprint,
        finished_run_dir=done[-1] if done else None,
        interrupted_run_dir=stopped,
        damage=damaged,
        running_run_dir=newest[0] if newest and state == "RUNNING" else None,
    )
