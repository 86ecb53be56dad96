"""The status of sweeps: a grid of variants by seeds, and the remaining time."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from recipe.formatting import escape_unprintable, format_duration, pluralize
from recipe.runner.console import print_caution
from recipe.store import results, run_dirs, sweep_dirs, sweep_record, sweep_status
from recipe.store.sweep_status import JOB_STATES, JobStatus, SweepStatus

MAX_TIMED_RUNS = 50

MAX_LISTED = 5


def print_sweep(sweep: SweepStatus, console: Console) -> None:
    """The grid, failures, a summary, and the command that resumes the sweep if it isn't running."""
    has_any = any(job.state == "done" and job.accuracy is not None for job in sweep.jobs)
    shown = ": val/accuracy of each run's best epoch (compare takes the last)" if has_any else ""
    title = f"{escape_unprintable(sweep.name)} ({escape_unprintable(sweep.sweep_dir.name)}){shown}"
    console.print(title, soft_wrap=True)
    for table in _make_tables(sweep.jobs, console.width):
        console.print(table)
    failed = [job for job in sweep.jobs if job.reason]
    for job in failed[:MAX_LISTED]:
        seed = f" seed={job.seed}" if job.seed else ""
        line = f"{job.state}: {job.variant}{seed}: {job.reason}"
        console.print(escape_unprintable(line), soft_wrap=True)
    if len(failed) > MAX_LISTED:
        console.print(f"and {len(failed) - MAX_LISTED} more")
    for caution in sweep.warnings:
        print_caution(console, caution)
    console.print(summarize(sweep), soft_wrap=True)
    left = _estimate_time_left(sweep)
    if sweep.is_running:
        if left:
            console.print(f"Time left  about {left}", soft_wrap=True)
    elif sweep.done_count < sweep.total:
        message = f"; that takes about {left}" if left else ""
        command = sweep_record.format_command(sweep.command)
        console.print(f"Resume with: {command}{message}", soft_wrap=True)


def print_unfinished_sweeps(output_dir: Path, console: Console) -> None:
    """A line for each of the latest unfinished sweeps, if any."""
    sweeps = sweep_dirs.list_sweep_dirs(output_dir)
    unfinished = [each for each in sweeps if not sweep_status.is_finished(each)]
    if not unfinished:
        return
    title = "Sweeps that aren't finished"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("sweep", "name", "done"):
        table.add_column(column, overflow="fold")
    for folder in unfinished[-MAX_LISTED:]:
        sweep = sweep_status.read_status(folder)
        done = f"{sweep.done_count} of {sweep.total}" + (", running" if sweep.is_running else "")
        if not sweep_record.read_record(folder):
            done = "sweep.json is damaged"
        table.add_row(escape_unprintable(folder.name), escape_unprintable(sweep.name), done)
    console.print(table)
    if len(unfinished) > MAX_LISTED:
        console.print(f"and {len(unfinished) - MAX_LISTED} before these")
    name = escape_unprintable(unfinished[-1].name)
    command = run_dirs.format_command(f"status {name}", output_dir)
    console.print(f"{command} shows one in full", soft_wrap=True)


def summarize(sweep: SweepStatus) -> str:
    """`17 of 20 done, 1 failed, 2 missing`."""
    counts = Counter(job.state for job in sweep.jobs)
    counts["missing"] += sweep.total - len(sweep.jobs)
    rest = [f", {counts[state]} {state}" for state in JOB_STATES[1:] if counts[state]]
    return f"{sweep.done_count} of {sweep.total} done{''.join(rest)}"


def _make_tables(jobs: Sequence[JobStatus], width: int) -> Iterator[Table]:
    """The grid, split by seeds into tables that fit the width."""
    rows: dict[str, dict[str, str]] = {}
    for job in jobs:
        rows.setdefault(job.variant, {})[job.seed] = escape_unprintable(_format_cell(job))
    # numbers in their order, then others
    seeds = sorted({job.seed for job in jobs}, key=lambda s: (not s.isdecimal(), len(s), s))
    names = {variant: escape_unprintable(variant) or "one variant" for variant in rows}
    label = min(max(map(len, ["variant", *names.values()])), width // 2)
    for part in _split_seeds(seeds, rows, width - label):
        table = Table(box=None, pad_edge=False)
        table.add_column("variant", overflow="fold", max_width=label)
        for seed in part:
            table.add_column(_format_header(seed), justify="right", no_wrap=True)
        for variant, cells in rows.items():
            table.add_row(names[variant], *(cells.get(seed, "") for seed in part))
        yield table


def _split_seeds(
    seeds: Sequence[str], rows: dict[str, dict[str, str]], width: int
) -> Iterator[Sequence[str]]:
    """The seeds in parts whose columns fit the width."""
    part: list[str] = []
    left = width
    for seed in seeds:
        cells = (cells.get(seed, "") for cells in rows.values())
        needed = 2 + max(map(len, [_format_header(seed), *cells]))
        if part and needed > left:
            yield part
            part, left = [], width
        part.append(seed)
        left -= needed
    if part:
        yield part


def _format_header(seed: str) -> str:
    return escape_unprintable(f"seed {seed}") if seed else "result"


def _format_cell(job: JobStatus) -> str:
    if job.state == "done" and job.accuracy is not None:
        return f"{100 * job.accuracy:.2f} %"
    if job.state == "running" and job.progress and job.progress.step is not None:
        return f"step {job.progress}"
    return job.state


def _estimate_time_left(sweep: SweepStatus) -> str:
    """The remaining time, from the mean time of finished runs; empty if it isn't known."""
    done = [job.run_id for job in sweep.jobs if job.state == "done" and job.run_id]
    folder = run_dirs.get_runs_dir(sweep.sweep_dir.parent.parent)
    known = [results.read_result(folder / Path(run).name) for run in sorted(done)[-MAX_TIMED_RUNS:]]
    seconds = [each.seconds for each in known if each and each.seconds is not None]
    # failed jobs are run again when the sweep is resumed, not by the process that is running it
    states = ("missing", "running") if sweep.is_running else set(JOB_STATES) - {"done"}
    rest = [job for job in sweep.jobs if job.state in states]
    n_left = sum(1 - (job.progress.fraction if job.progress else 0.0) for job in rest)
    n_left += sweep.total - len(sweep.jobs)
    if not seconds or not n_left:
        return ""
    mean = statistics.fmean(seconds)
    n_parallel = max(1, sum(job.state == "running" for job in rest)) if sweep.is_running else 1
    parallel = f", {n_parallel} at a time" if n_parallel > 1 else ""
    source = f"{pluralize(len(seconds), 'finished run')} took {format_duration(mean)}"
    each = " each on average" if len(seconds) > 1 else ""
    return f"{format_duration(mean * n_left / n_parallel)}{parallel} ({source}{each})"
