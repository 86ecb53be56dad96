"""Earlier runs that had the same fingerprint, found at once however many runs are recorded.

`<outputs>/fingerprints/<fingerprint>/<run id>` is an empty file that says where to look; what
became of the run is said by its own run.json.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from recipe import runs
from recipe.errors import SpecError
from recipe.runs import Info


def remember(outputs: Path, fingerprint: str, run_id: str) -> None:
    """Lets later runs find this one."""
    folder = outputs / "fingerprints" / fingerprint
    folder.mkdir(parents=True, exist_ok=True)
    (folder / run_id).touch()


@dataclass(frozen=True)
class Earlier:
    """What became of the runs of one fingerprint; each a run's folder, or None."""

    finished: Path | None = None
    """The newest one that did."""
    stopped: Path | None = None
    """The newest run of all, if it was killed."""
    running: Path | None = None
    """The newest run of all, if it is going on in some process."""


def look(outputs: Path, fingerprint: str) -> Earlier:
    """A run that failed counts for nothing, as one whose run.json is damaged or is another's."""
    known: list[tuple[Path, Info]] = []
    for mark in sorted((outputs / "fingerprints" / fingerprint).glob("*")):
        folder = runs.folder(outputs) / mark.name
        with contextlib.suppress(SpecError):
            info = runs.read(folder, "run")
            if info.fingerprint == fingerprint:
                known.append((folder, info))
    done = [folder for folder, info in known if info.status == "FINISHED"]
    newest = known[-1] if known else None
    state = newest[1].status if newest else None
    if newest and state == "RUNNING" and not runs.alive(newest[0]):
        state = "KILLED"  # without a chance to say so
    return Earlier(
        finished=done[-1] if done else None,
        stopped=newest[0] if newest and state == "KILLED" else None,
        running=newest[0] if newest and state == "RUNNING" else None,
    )
