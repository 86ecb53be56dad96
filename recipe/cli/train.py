"""`recipe train`, and a command line without a verb: trains one run and records it."""

from __future__ import annotations

from rich.console import Console

from recipe.cli.run_request import RunRequest
from recipe.runner import fingerprint, plan
from recipe.runner.console import print_caution
from recipe.runner.earlier_runs import find_earlier_runs, print_agreement
from recipe.runner.execute import execute_run
from recipe.runner.prepare import prepare_run


def train(request: RunRequest, console: Console) -> int:
    spec = request.spec
    run = prepare_run(spec, request.problems)
    console.print(plan.format_headline(spec, run), soft_wrap=True)
    found = find_earlier_runs(spec, fingerprint.compute(spec, run))
    if found.running_run_dir:
        running = found.running_run_dir.name
        print_caution(console, f"another process is running this already, as {running}")
    summary = execute_run(
        spec, run, console,
        name=spec.label, command=" ".join(request.arguments), earlier_runs=found,
    )  # fmt: skip
    summary.print_report(console)
    print_agreement(console, found, summary.run_dir)
    return 0
