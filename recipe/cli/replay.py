"""Replay: a recorded run once more, from its spec, and whether its numbers came out again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from recipe.cli.recorded_spec import parse_run_request
from recipe.compare import agreement
from recipe.components import device
from recipe.config.spec import RunSpec
from recipe.errors import Problems, SpecError
from recipe.formatting import pluralize
from recipe.runner import fingerprint
from recipe.runner.earlier_runs import EarlierRuns
from recipe.runner.execute import execute_run, prepare_run, print_report
from recipe.store import lineage
from recipe.store.run_record import RunRecord

MAX_THREADS = 256
"""A recorded number of threads above this is not believed."""


def replay(arguments: Sequence[str], console: Console) -> int:
    """The verb. The comparison is the result, so the exit status is 0 whatever it says."""
    problems = Problems()
    wanted = parse_run_request("replay", arguments, problems)
    folder = wanted.run_dir
    if source := lineage.find_parent_checkpoint(folder):
        other = lineage.get_parent_run_id(source)
        raise SpecError(
            f"replay: {folder.name} went on from {other}, so its spec alone doesn't give its "
            f"numbers; replay {other}, or resume that with the same overrides"
        )
    if damage := RunRecord(folder).problems.get("metrics.jsonl"):  # nothing to compare with
        raise SpecError(f"replay: {folder.name}: metrics.jsonl: {damage}; use another run")
    spec, threads = _set_recorded_threads(wanted.spec, folder)
    run = prepare_run(spec, problems)
    from recipe.runner import plan

    console.print(plan.format_headline(spec, run), soft_wrap=True)
    if threads:
        console.print(threads, soft_wrap=True)
    outcome, recorder = execute_run(
        spec, run, console, name=spec.label, command=" ".join(["replay", *arguments]),
        earlier_runs=EarlierRuns(fingerprint.compute(spec, run)),
        tags={"recipe.replay_of": folder.name},
    )  # fmt: skip
    print_report(console, outcome, recorder)
    changes = f" with {' '.join(arguments[1:])}" if arguments[1:] else ""
    told = agreement.compare_runs(folder, recorder.run_dir).summary
    console.print(f"Replay  of {folder.name}{changes}: {told}", soft_wrap=True)
    return 0


def _set_recorded_threads(spec: RunSpec, folder: Path) -> tuple[RunSpec, str | None]:
    """With the number of threads that the recorded run had, as another changes the last bits; and
    a line that says so, where it isn't what this machine would take."""
    had = RunRecord(folder).environment.get("threads", "")
    if spec.device.get("threads") != "auto" or not had.isdecimal():
        return spec, None
    threads, usual = int(had), device.thread_count("auto")
    if threads == usual or not 1 <= threads <= MAX_THREADS:
        return spec, None
    if threads > device.count_available_cores():
        os.environ["OMP_NUM_THREADS"] = str(threads)  # which says that they are wanted
    line = f"On {pluralize(threads, 'thread')}, as the recorded run was; here auto would be {usual}"
    return replace(spec, device={**spec.device, "threads": threads}), line
