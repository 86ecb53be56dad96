"""`recipe replay`: runs a recorded spec once more and compares the numbers."""

from __future__ import annotations

from rich.console import Console

from recipe.cli.recorded_run import RecordedRunRequest
from recipe.compare import run_agreement
from recipe.runner import fingerprint, plan
from recipe.runner.earlier_runs import EarlierRuns
from recipe.runner.execute import execute_run
from recipe.runner.prepare import prepare_run


def replay(request: RecordedRunRequest, console: Console) -> int:
    """The exit status is 0 whether the numbers agree or not."""
    spec, run_dir = request.spec, request.run_dir
    run = prepare_run(spec, request.problems)
    console.print(plan.format_headline(spec, run), soft_wrap=True)
    if request.threads_note:
        console.print(request.threads_note, soft_wrap=True)
    summary = execute_run(
        spec, run, console, name=spec.label, command=" ".join(["replay", *request.arguments]),
        earlier_runs=EarlierRuns(fingerprint.compute(spec, run)),
        tags={"recipe.replay_of": run_dir.name},
    )  # fmt: skip
    summary.print_report(console)
    overrides = request.arguments[1:]
    changes = f" with {' '.join(overrides)}" if overrides else ""
    agrees = run_agreement.compare_runs(run_dir, summary.run_dir).summary
    console.print(f"Replay  of {run_dir.name}{changes}: {agrees}", soft_wrap=True)
    return 0
