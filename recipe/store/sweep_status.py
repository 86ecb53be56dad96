"""The status of a sweep and its jobs.

`jobs.jsonl` has the results of jobs; running and killed ones are found among the runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recipe.formatting import escape_unprintable, format_list, pluralize
from recipe.store import results, run_dirs, sweep_jobs, sweep_members, sweep_record
from recipe.store.run_dirs import RunInfo
from recipe.store.run_record import RunProgress, RunRecord
from recipe.store.sweep_jobs import JobResult
from recipe.store.sweep_members import PlannedJob

JOB_STATES = ("done", "pruned", "running", "elsewhere", "failed", "killed", "refused", "missing")
"""`elsewhere`: another process was running it."""

STATE_BY_STATUS = {
    "FINISHED": "done",
    "PRUNED": "pruned",
    "RUNNING": "elsewhere",
    "FAILED": "failed",
    "KILLED": "killed",
    "REFUSED": "refused",
}
"""States by the status in jobs.jsonl or run.json."""


@dataclass(frozen=True)
class JobStatus:
    variant: str
    """The swept overrides without the seed."""
    seed: str
    """Empty if the sweep doesn't set it."""
    state: str
    run_id: str | None = None
    accuracy: float | None = None
    progress: RunProgress | None = None
    """None unless it is running or was killed."""
    reason: str = ""
    """Why it failed."""


@dataclass(frozen=True)
class SweepStatus:
    sweep_dir: Path
    name: str
    jobs: Sequence[JobStatus]
    """The known jobs."""
    total: int
    """The number of planned jobs."""
    is_running: bool
    command: Sequence[str]
    """The arguments that started it; empty if unknown."""
    warnings: Sequence[str] = ()

    @property
    def done_count(self) -> int:
        return sum(job.state == "done" for job in self.jobs)


def read_status(sweep_dir: Path) -> SweepStatus:
    """Reads the status of a sweep; damaged files are reported as warnings."""
    about = sweep_record.read_record(sweep_dir)
    cautions = [] if about else [f"{escape_unprintable(sweep_dir / 'sweep.json')} is damaged"]
    ended: dict[int, JobResult] = {}
    try:
        ended = {each.number: each for each in sweep_jobs.read_results(sweep_dir)}
    except (OSError, ValueError, TypeError) as error:
        reason = escape_unprintable(str(error).splitlines()[0])
        cautions.append(f"jobs.jsonl can't be read ({reason}); what the runs say is shown")
    planned = sweep_members.read_planned_jobs(about, ended)
    count = about.get("jobs")
    total = max(len(planned), count if isinstance(count, int) else 0)
    done = [number for number in planned if number in ended and ended[number].status == "FINISHED"]
    found: dict[int, tuple[Path, RunInfo]] = {}
    if len(done) < total or not planned:
        there = list(sweep_members.find_runs(sweep_dir))
        if not isinstance(about.get("planned"), list):
            sweep_members.add_jobs_by_name(planned, [info.name for _, info in there])
        found, unknown = sweep_members.assign_to_jobs(there, planned)
        if unknown:
            which = pluralize(len(unknown), "run")
            cautions.append(
                f"{which} can't be identified as one of its jobs: {format_list(unknown)}"
            )
    ids = [Path(ended[number].run or "").name for number in done]
    recorded = run_dirs.get_runs_dir(sweep_dir.parent.parent)
    gone = [name for name in ids if name and not (recorded / name / "run.json").is_file()]
    if gone:
        which = pluralize(len(gone), "run")
        cautions.append(f"{which} of those done can't be found any more: {format_list(gone)}")
    return SweepStatus(
        sweep_dir=sweep_dir,
        name=str(about.get("name") or sweep_dir.name),
        jobs=[_build_job_status(job, ended.get(n), found.get(n)) for n, job in planned.items()],
        total=max(len(planned), total),
        is_running=run_dirs.is_running(sweep_dir),
        command=sweep_members.to_strings(about.get("command")),
        warnings=cautions,
    )


def is_finished(sweep_dir: Path) -> bool:
    """Whether sweep.json records that it finished."""
    end = sweep_record.read_record(sweep_dir).get("end")
    return isinstance(end, dict) and end.get("status") == "FINISHED"


def _build_job_status(
    job: PlannedJob, ended: JobResult | None, found: tuple[Path, RunInfo] | None
) -> JobStatus:
    state = STATE_BY_STATUS.get(ended.status, "missing") if ended else "missing"
    run = ended.run if ended else None
    accuracy = ended.accuracy if ended else None
    if found and state != "done":
        folder, info = found
        run = folder.name
        if info.status == "RUNNING":
            state = "running" if sweep_members.is_running(found) else "killed"
        elif ended is None or info.status == "FINISHED":  # resumed alone since
            result = results.read_result(folder)
            state = STATE_BY_STATUS.get(info.status, "missing")
            accuracy = result.last.get("best/val_accuracy") if result else None
    return JobStatus(
        variant=job.variant,
        seed=job.seed,
        state=state,
        run_id=run,
        accuracy=accuracy if isinstance(accuracy, int | float) else None,
        progress=RunRecord(found[0]).progress if found and state in ("running", "killed") else None,
        reason=ended.short_problem if ended and state in ("failed", "refused") else "",
    )
