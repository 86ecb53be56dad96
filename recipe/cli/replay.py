"""Replay: a recorded run once more, from its spec, and whether its numbers came out again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from recipe.cli.recorded_spec import asked
from recipe.compare import agreement
from recipe.components import device
from recipe.config.spec import RunSpec
from recipe.errors import Problems, SpecError
from recipe.formatting import counted
from recipe.runner import fingerprint
from recipe.runner.earlier_runs import Earlier
from recipe.runner.execute import execute, prepare, report
from recipe.store import lineage, run_record

MOST_THREADS = 256
"""A recorded number of threads above this is not believed."""


def replay(arguments: Sequence[str], console: Console) -> int:
    """The verb. The comparison is the result, so the exit status is 0 whatever it says."""
    problems = Problems()
    wanted = asked("replay", arguments, problems)
    folder = wanted.folder
    if source := lineage.source(folder):
        other = lineage.other(source)
        raise SpecError(
            f"replay: {folder.name} went on from {other}, so its spec alone doesn't give its "
            f"numbers; replay {other}, or resume that with the same overrides"
        )
    damaged = [line for line in run_record.read(folder).damaged if line.startswith("metrics.jsonl")]
    if damaged:  # nothing to compare with
        raise SpecError(f"replay: {folder.name}: {damaged[0]}; use another run")
    spec, threads = _with_threads(wanted.spec, folder)
    run = prepare(spec, problems)
    from recipe.runner import plan

    console.print(plan.headline(spec, run), soft_wrap=True)
    if threads:
        console.print(threads, soft_wrap=True)
    outcome, recorder = execute(
        spec, run, console, name=spec.label, command=" ".join(["replay", *arguments]),
        before=Earlier(fingerprint.of(spec, run)),
        tags={"recipe.replay_of": folder.name},
    )  # fmt: skip
    report(console, outcome, recorder)
    changes = f" with {' '.join(arguments[1:])}" if arguments[1:] else ""
    told = agreement.compare(folder, recorder.folder).sentence
    console.print(f"Replay  of {folder.name}{changes}: {told}", soft_wrap=True)
    return 0


def _with_threads(spec: RunSpec, folder: Path) -> tuple[RunSpec, str | None]:
    """With the number of threads that the recorded run had, as another changes the last bits; and
    a line that says so, where it isn't what this machine would take."""
    had = run_record.read(folder).environment.get("threads", "")
    if spec.device.get("threads") != "auto" or not had.isdecimal():
        return spec, None
    threads, usual = int(had), device.thread_count("auto")
    if threads == usual or not 1 <= threads <= MOST_THREADS:
        return spec, None
    if threads > device.cores():
        os.environ["OMP_NUM_THREADS"] = str(threads)  # which says that they are wanted
    line = f"On {counted(threads, 'thread')}, as the recorded run was; here auto would be {usual}"
    return replace(spec, device={**spec.device, "threads": threads}), line
