"""A sweep as a grid of variants by seeds, and the time that is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from recipe.formatting import counted, duration, printable
from recipe.store import results, run_dirs, sweep_dirs, sweep_record, sweep_status
from recipe.store.sweep_status import STATES, Standing, Sweep

LATEST = 50
"""Finished runs from which the time that is left is estimated."""

MOST = 5
"""Reasons that are told, and sweeps that are listed."""


def show(sweep: Sweep, console: Console) -> None:
    """The grid, what it sums up to, and how to go on where nobody does."""
    has_any = any(job.state == "done" and job.accuracy is not None for job in sweep.jobs)
    shown = ": val/accuracy of each run's best epoch (compare takes the last)" if has_any else ""
    title = f"{printable(sweep.name)} ({printable(sweep.folder.name)}){shown}"
    console.print(title, soft_wrap=True)
    for table in _tables(sweep.jobs, console.width):
        console.print(table)
    failed = [job for job in sweep.jobs if job.reason]
    for job in failed[:MOST]:
        seed = f" seed={job.seed}" if job.seed else ""
        console.print(printable(f"{job.state}: {job.variant}{seed}: {job.reason}"), soft_wrap=True)
    if len(failed) > MOST:
        console.print(f"and {len(failed) - MOST} more")
    for caution in sweep.cautions:
        console.print(f"Caution {caution}", style="yellow", soft_wrap=True)
    console.print(summary(sweep), soft_wrap=True)
    left = _left(sweep)
    if sweep.alive:
        if left:
            console.print(f"Time left  about {left}", soft_wrap=True)
    elif sweep.done < sweep.total:
        told = f"; that takes about {left}" if left else ""
        console.print(f"Go on with: {sweep_record.command(sweep.command)}{told}", soft_wrap=True)


def show_unfinished(outputs: Path, console: Console) -> None:
    """A line for each of the latest sweeps that aren't finished, if there are any."""
    unfinished = [
        each for each in sweep_dirs.folders(outputs) if not sweep_status.is_finished(each)
    ]
    if not unfinished:
        return
    title = "Sweeps that aren't finished"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("sweep", "name", "done"):
        table.add_column(column, overflow="fold")
    for folder in unfinished[-MOST:]:
        sweep = sweep_status.read(folder)
        done = f"{sweep.done} of {sweep.total}" + (", going on" if sweep.alive else "")
        if not sweep_record.read(folder):
            done = "sweep.json is damaged"
        table.add_row(printable(folder.name), printable(sweep.name), done)
    console.print(table)
    if len(unfinished) > MOST:
        console.print(f"and {len(unfinished) - MOST} before these")
    name = printable(unfinished[-1].name)
    console.print(f"{run_dirs.command(f'status {name}', outputs)} shows one whole", soft_wrap=True)


def summary(sweep: Sweep) -> str:
    """`17 of 20 done, 1 failed, 2 missing`."""
    counts = Counter(job.state for job in sweep.jobs)
    counts["missing"] += sweep.total - len(sweep.jobs)
    rest = [f", {counts[state]} {state}" for state in STATES[1:] if counts[state]]
    return f"{sweep.done} of {sweep.total} done{''.join(rest)}"


def _tables(jobs: Sequence[Standing], width: int) -> Iterator[Table]:
    """The grid, in as many tables as it takes to show each cell whole."""
    rows: dict[str, dict[str, str]] = {}
    for job in jobs:
        rows.setdefault(job.variant, {})[job.seed] = printable(_cell(job))
    seeds = _in_order({job.seed for job in jobs})
    names = {variant: printable(variant) or "one variant" for variant in rows}
    label = min(max(map(len, ["variant", *names.values()])), width // 2)
    for part in _parts(seeds, rows, width - label):
        table = Table(box=None, pad_edge=False)
        table.add_column("variant", overflow="fold", max_width=label)
        for seed in part:
            table.add_column(_head(seed), justify="right", no_wrap=True)
        for variant, cells in rows.items():
            table.add_row(names[variant], *(cells.get(seed, "") for seed in part))
        yield table


def _parts(
    seeds: Sequence[str], rows: dict[str, dict[str, str]], width: int
) -> Iterator[Sequence[str]]:
    """The seeds, as many at a time as have a place beside each other."""
    part: list[str] = []
    left = width
    for seed in seeds:
        cells = (cells.get(seed, "") for cells in rows.values())
        needed = 2 + max(map(len, [_head(seed), *cells]))
        if part and needed > left:
            yield part
            part, left = [], width
        part.append(seed)
        left -= needed
    if part:
        yield part


def _in_order(seeds: set[str]) -> list[str]:
    return sorted(seeds, key=lambda seed: (not seed.isdecimal(), int(seed)
                                           if seed.isdecimal() else 0, seed))  # fmt: skip


def _head(seed: str) -> str:
    return printable(f"seed {seed}") if seed else "result"


def _cell(job: Standing) -> str:
    if job.state == "done" and job.accuracy is not None:
        return f"{100 * job.accuracy:.2f} %"
    if job.state == "running" and job.reached and job.reached.step is not None:
        return f"step {job.reached}"
    return job.state


def _left(sweep: Sweep) -> str:
    """How long the rest takes, and from what that is known; empty if it isn't."""
    done = [job.run for job in sweep.jobs if job.state == "done" and job.run]
    folder = run_dirs.folder(sweep.folder.parent.parent)
    known = [results.read(folder / Path(run).name) for run in sorted(done)[-LATEST:]]
    took = [each.seconds for each in known if each and each.seconds is not None]
    # those that failed are tried again when it goes on, not by the process that is running it
    states = ("missing", "running") if sweep.alive else set(STATES) - {"done"}
    rest = [job for job in sweep.jobs if job.state in states]
    shares = sum(1 - (job.reached.share if job.reached else 0.0) for job in rest)
    shares += sweep.total - len(sweep.jobs)
    if not took or not shares:
        return ""
    mean = sum(took) / len(took)
    at_once = max(1, sum(job.state == "running" for job in rest) if sweep.alive else 1)
    beside = f", {at_once} at a time" if at_once > 1 else ""
    source = f"{counted(len(took), 'finished run')} took {duration(mean)}"
    each = " each on average" if len(took) > 1 else ""
    return f"{duration(mean * shares / at_once)}{beside} ({source}{each})"
