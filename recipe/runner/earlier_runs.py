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
from recipe.store.run_dirs import Info


@dataclass(frozen=True)
class Earlier:
    """What became of the runs of one fingerprint; each a run's folder, or None."""

    fingerprint: str
    finished: Path | None = None
    """The newest one that did."""
    stopped: Path | None = None
    """The newest run of all, if it was killed."""
    running: Path | None = None
    """The newest run of all, if it is going on in some process."""
    damaged: str | None = None
    """Why the newest run of all can't go on, though it was killed."""
    goes_on_from: Path | None = None
    """The checkpoint of another run, under another spec."""


def of(spec: RunSpec, identity: str) -> Earlier:
    """What became of those of this fingerprint; none is taken up if the spec says `again`."""
    found = look(spec.output_path, identity)
    return replace(found, stopped=None, damaged=None) if spec.again else found


@contextlib.contextmanager
def claimed(spec: RunSpec, identity: str) -> Iterator[Earlier | None]:
    """As `of`, and None if another process is within such a block for the same fingerprint: of
    two that would start the same run at the same moment only one does."""
    folder = run_dirs.marks(spec.output_path, identity)
    folder.mkdir(parents=True, exist_ok=True)
    lock = run_dirs.lock(folder)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield of(spec, identity) if spec.again else None
        return
    try:
        yield of(spec, identity)
    finally:
        lock.release()


def look(outputs: Path, wanted: str) -> Earlier:
    """A run that failed counts for nothing, as one whose run.json is damaged or is another's."""
    known: list[tuple[Path, Info]] = []
    for mark in sorted(run_dirs.marks(outputs, wanted).glob("*")):
        folder = run_dirs.folder(outputs) / mark.name
        with contextlib.suppress(SpecError):
            info = run_dirs.read(folder, "run")
            if info.fingerprint == wanted:
                known.append((folder, info))
    done = [folder for folder, info in known if info.status == "FINISHED"]
    newest = known[-1] if known else None
    state = newest[1].status if newest else None
    if newest and state == "RUNNING" and not run_dirs.alive(newest[0]):
        state = "KILLED"  # without a chance to say so
    stopped, damaged = newest[0] if newest and state == "KILLED" else None, None
    if stopped:
        try:
            recorder.known(stopped)
        except SpecError as error:
            stopped, damaged = None, str(error).removeprefix("run: ")
    return Earlier(
        wanted,
        finished=done[-1] if done else None,
        stopped=stopped,
        damaged=damaged,
        running=newest[0] if newest and state == "RUNNING" else None,
    )
