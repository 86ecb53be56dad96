"""The results of a sweep's jobs: `jobs.jsonl` in its folder, and tables of them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter
from rich.console import Console
from rich.table import Table

from recipe.store import journal, run_dirs, sweep_record
from recipe.store.journal import Journal


@dataclass(frozen=True)
class JobResult:
    """A job that ended: a line of jobs.jsonl."""

    number: Annotated[int, Field(ge=0, lt=10**9)]
    name: str
    status: str
    run: str | None = None
    accuracy: float | None = None
    problem: str | None = None
    no_effect: Sequence[str] = ()
    """`group=option` of the tricks without an effect."""
    diverged: bool = False
    """Whether it failed because of a number that was not finite."""

    @property
    def short_problem(self) -> str:
        """The problem without its way out."""
        return (self.problem or "").partition("; ")[0]

    @property
    def accuracy_text(self) -> str:
        return "" if self.accuracy is None else f"{100 * self.accuracy:.2f} %"


JOB_RESULT_ADAPTER = TypeAdapter(JobResult)


def format_job_name(about: Mapping[str, Any], number: int, overrides: Sequence[str]) -> str:
    """The swept overrides of a job; the variant and seed for a job of an ablation."""
    swept = [text for text in overrides if text.split("=")[0] in about["swept"]]
    if "variants" not in about:
        return " ".join(swept)
    seeds = (text for text in swept if text.startswith("seed="))
    return " ".join([about["variants"][number], *seeds])


def format_job_command(overrides: Sequence[str]) -> str:
    """The command that runs a failed job alone, for a message."""
    return " ".join(["alone: python -m recipe", *map(shlex.quote, overrides)])


def append_result(sweep_dir: Path, result: JobResult) -> None:
    jobs = Journal(sweep_dir / "jobs.jsonl")
    jobs.append(asdict(result))
    jobs.close()


def read_results(sweep_dir: Path) -> list[JobResult]:
    """Returns the latest result of each job that is still planned. Raises ValueError."""
    ended = read_result_history(sweep_dir)
    planned = sweep_record.read_record(sweep_dir).get("jobs", len(ended))
    latest = {each.number: each for each in ended if each.number < planned}
    return [latest[number] for number in sorted(latest)]


def read_result_history(sweep_dir: Path) -> list[JobResult]:
    """Returns all results in the order of their ends. Raises ValueError."""
    return [
        JOB_RESULT_ADAPTER.validate_python(line)
        for line in journal.read_lines(sweep_dir / "jobs.jsonl")[0]
    ]


def print_summary(console: Console, sweep_dir: Path) -> None:
    """Prints the table and the hints at the end of a sweep."""
    table = Table(title="\nRuns of the sweep", title_justify="left", box=None, pad_edge=False)
    idle = any(ended.no_effect for ended in read_results(sweep_dir))
    for column in ("run", "status", "best val/accuracy", "id", *(["no effect"] if idle else [])):
        right = "accuracy" in column
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    table.columns[3].min_width = len(
        run_dirs.new_run_id()
    )  # ids must not be wrapped, so that they can be copied
    for ended in read_results(sweep_dir):
        cells = [ended.name, ended.status, ended.accuracy_text, ended.run or ended.short_problem]
        table.add_row(*cells, *([", ".join(ended.no_effect)] if idle else []))
    console.print(table)
    about = sweep_record.read_record(sweep_dir)
    if about.get("end", {}).get("status") != "FINISHED":
        done = sum(ended.status == "FINISHED" for ended in read_results(sweep_dir))
        typed = about.get("command", [])
        message = (
            f"{done} of {about['jobs']} runs finished; resume with: "
            f"{sweep_record.format_command(typed)}"
        )
        console.print(f"\n{message}", soft_wrap=True)
    ui = run_dirs.format_command("ui", sweep_dir.parent.parent)
    compare = run_dirs.format_command(f"compare {sweep_dir.name}", sweep_dir.parent.parent)
    console.print(f"\nRecord  {sweep_dir.name}\nCompare {compare}\nOpen    {ui}", soft_wrap=True)


def format_markdown(sweep_dir: Path) -> str:
    """The jobs as a table for the sweep's page in MLflow."""
    lines = ["| run | status | best val/accuracy | no effect |", "|---|---|---|---|"]
    for ended in read_results(sweep_dir):
        idle = ", ".join(ended.no_effect)
        lines.append(f"| {ended.name} | {ended.status} | {ended.accuracy_text} | {idle} |")
    return "\n".join(lines) + "\n"
