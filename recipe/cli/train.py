"""`recipe train`, and a command line without a verb: trains one run and records it."""

from __future__ import annotations

from rich.console import Console

from recipe.cli.run_request import RunRequest
from recipe.runner import earlier_runs, fingerprint, plan
from recipe.runner.execute import execute_run, print_agreement, print_report
from recipe.runner.prepare import prepare_run


def train(request: RunRequest, console: Console) -> int:
    spec = request.spec
    run = prepare_run(spec, request.problems)
    console.print(plan.format_headline(spec, run), soft_wrap=True)
    found = earlier_runs.find_earlier_runs(spec, fingerprint.compute(spec, run))
    if found.running_run_dir:
        other = f"Caution another process is running this already, as {found.running_run_dir.name}"
        console.print(other, style="yellow", soft_wrap=True)
    outcome, recorder = execute_run(
        spec, run, console,
        name=spec.label, command=" ".join(request.arguments), earlier_runs=found,
    )  # fmt: skip
    print_report(console, outcome, recorder)
    print_agreement(console, found, recorder)
    return 0
