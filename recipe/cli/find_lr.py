"""`recipe find-lr`: a learning-rate range test of a spec."""

from __future__ import annotations

from rich.console import Console

from recipe.cli.run_request import LRTestRequest
from recipe.runner.lr_finder import find_lr as run_test
from recipe.runner.prepare import prepare_run


def find_lr(request: LRTestRequest, console: Console) -> int:
    run, problems = prepare_run(request.spec, request.problems), request.problems
    with problems.collect("find-lr"):
        run_test(
            request.spec, run, console, min_lr=request.min_lr, max_lr=request.max_lr,
            num_steps=request.num_steps, command=request.arguments,
        )  # fmt: skip
    problems.raise_if_any()
    return 0
