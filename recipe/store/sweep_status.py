"""How a sweep stands: what was planned, and what has become of it.

`jobs.jsonl` says how jobs ended. What is going on, or was killed without a chance to say so, is
found among the runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recipe.formatting import counted, listed, printable
from recipe.store import results, run_dirs, sweep_jobs, sweep_members, sweep_record
from recipe.store.run_dirs import Info
from recipe.store.run_progress import Reached, reached
from recipe.store.sweep_jobs import Ended
from recipe.store.sweep_members import Job

STATES = ("done", "pruned", "running", "elsewhere", "failed", "killed", "refused", "missing")
"""Of a job; `elsewhere`: another process was running it as a run of its own."""

ENDED = {"FINISHED": "done", "PRUNED": "pruned", "RUNNING": "elsewhere", "FAILED": "failed",
         "KILLED": "killed", "REFUSED": "refused"}  # fmt: skip
"""The state that a job's status stands for, in jobs.jsonl or in run.json."""


@dataclass(frozen=True)
class Standing:
    """How one job stands."""

    variant: str
    """What differs from job to job but the seed."""
    seed: str
    """Empty if the sweep says nothing of it."""
    state: str
    run: str | None = None
    """Its id, as far as there is one."""
    accuracy: float | None = None
    reached: Reached | None = None
    """Of one that is running or was killed."""
    reason: str = ""
    """Why it failed."""


@dataclass(frozen=True)
class Sweep:
    folder: Path
    name: str
    jobs: Sequence[Standing]
    """Those that are known."""
    total: int
    """Of all that were planned."""
    alive: bool
    """Whether a process is running it."""
    command: Sequence[str]
    """The arguments that it was started with; none if that isn't known."""
    cautions: Sequence[str] = ()

    @property
    def done(self) -> int:
        return sum(job.state == "done" for job in self.jobs)


def read(sweep: Path) -> Sweep:
    """What is damaged is told as a caution, and the rest is shown."""
    about = sweep_record.read(sweep)
    cautions = [] if about else [f"{printable(sweep / 'sweep.json')} is damaged"]
    ended: dict[int, Ended] = {}
    try:
        ended = {each.number: each for each in sweep_jobs.read(sweep)}
    except (OSError, ValueError, TypeError) as error:
        reason = printable(str(error).splitlines()[0])
        cautions.append(f"jobs.jsonl can't be read ({reason}); what the runs say is shown")
    planned = sweep_members.planned(about, ended)
    count = about.get("jobs")
    total = max(len(planned), count if isinstance(count, int) else 0)
    done = [number for number in planned if number in ended and ended[number].status == "FINISHED"]
    found: dict[int, tuple[Path, Info]] = {}
    if len(done) < total or not planned:
        there = list(sweep_members.recorded(sweep))
        if not isinstance(about.get("planned"), list):
            sweep_members.add_unplanned(planned, [info.name for _, info in there])
        found, unknown = sweep_members.by_job(there, planned)
        if unknown:
            which = counted(len(unknown), "run")
            cautions.append(f"{which} of it can't be told to be one of its jobs: {listed(unknown)}")
    ids = [Path(ended[number].run or "").name for number in done]
    recorded = run_dirs.folder(sweep.parent.parent)
    gone = [name for name in ids if name and not (recorded / name / "run.json").is_file()]
    if gone:
        which = counted(len(gone), "run")
        cautions.append(f"{which} of those done can't be found any more: {listed(gone)}")
    return Sweep(
        folder=sweep,
        name=str(about.get("name") or sweep.name),
        jobs=[_standing(job, ended.get(n), found.get(n)) for n, job in planned.items()],
        total=max(len(planned), total),
        alive=run_dirs.alive(sweep),
        command=sweep_members.texts_in(about.get("command")),
        cautions=cautions,
    )


def is_finished(sweep: Path) -> bool:
    """Whether it said so; nothing but sweep.json is read."""
    end = sweep_record.read(sweep).get("end")
    return isinstance(end, dict) and end.get("status") == "FINISHED"


def _standing(job: Job, ended: Ended | None, found: tuple[Path, Info] | None) -> Standing:
    state = ENDED.get(ended.status, "missing") if ended else "missing"
    run = ended.run if ended else None
    accuracy = ended.accuracy if ended else None
    if found and state != "done":
        folder, info = found
        run = folder.name
        if info.status == "RUNNING":
            state = "running" if sweep_members.is_running(found) else "killed"
        elif ended is None or info.status == "FINISHED":  # taken up by itself since
            result = results.read(folder)
            state = ENDED.get(info.status, "missing")
            accuracy = result.last.get("best/val_accuracy") if result else None
    return Standing(
        variant=job.variant,
        seed=job.seed,
        state=state,
        run=run,
        accuracy=accuracy if isinstance(accuracy, int | float) else None,
        reached=reached(found[0]) if found and state in ("running", "killed") else None,
        reason=ended.reason if ended and state in ("failed", "refused") else "",
    )
