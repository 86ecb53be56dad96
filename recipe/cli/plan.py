"""`recipe plan`: prints what a run would do, without training."""

from __future__ import annotations

from rich.console import Console

from recipe.cli.run_request import RunRequest
from recipe.runner import component_errors
from recipe.runner.plan import estimate_epoch_seconds, make_plan, render_plan
from recipe.runner.prepare import prepare_run


def plan(request: RunRequest, console: Console) -> int:
    run = prepare_run(request.spec, request.problems)
    with component_errors.wrap_component_errors(request.spec, run):
        made = make_plan(request.spec, run)
        seconds = estimate_epoch_seconds(run)
    if request.spec.summary:
        console.print(str(made.model_summary), soft_wrap=True)
    console.print(render_plan(made, seconds=seconds))
    return 0
