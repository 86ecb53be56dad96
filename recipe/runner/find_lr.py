"""`find-lr`: the range test of a spec, told and drawn."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from recipe import output
from recipe.config.spec import RunSpec
from recipe.formatting import relative_to_cwd
from recipe.runner import component_errors, lr_range_test
from recipe.runner.lr_range_test import LRRangeTest
from recipe.store import run_dirs
from recipe.training.run import Run

MIN_RELIABLE_STEPS = 50
"""Steps up to which a suggestion is a rough one."""


def find_lr(
    spec: RunSpec,
    run: Run,
    console: Console,
    *,
    min_lr: float,
    max_lr: float,
    num_steps: int,
    command: Sequence[str],
) -> None:
    """Runs the test, keeps its picture below `<outputs>/reports/`, and says what it suggests.

    `command` are the overrides that the spec was given by.
    """
    output.set_current_task("training at rising learning rates")
    own = float(spec.optimizer["lr"])
    lr_range_test.check_arguments(own, min_lr=min_lr, max_lr=max_lr, steps=num_steps)
    folder = spec.output_path / "reports"
    folder.mkdir(parents=True, exist_ok=True)
    with component_errors.wrap_component_errors(spec, run):
        found = lr_range_test.run_lr_range_test(
            run, own, min_lr=min_lr, max_lr=max_lr, steps=num_steps
        )
    path = folder / f"find-lr-{run_dirs.new_run_id()}.png"
    lr_range_test.plot_range_test(found, path)
    console.print(_describe_range_test(found), soft_wrap=True)
    for line in _suggest_lr(found, run, own, command):
        console.print(line, soft_wrap=True)
    console.print(f"Picture  {relative_to_cwd(path)}", soft_wrap=True)


def _describe_range_test(found: LRRangeTest) -> str:
    lowest = found.lowest_loss_step
    end = "the loss grew out of bounds" if found.has_diverged else "the end"
    return (
        f"{len(found.learning_rates)} steps, optimizer.lr from {found.learning_rates[0]:.2g} to "
        f"{found.learning_rates[-1]:.2g}, where {end} was reached; smoothed loss {found.smoothed_losses[0]:.4g} at "
        f"first, lowest {found.smoothed_losses[lowest]:.4g} at {found.learning_rates[lowest]:.2g}"
    ).replace("the loss grew out of bounds was reached", "the loss grew out of bounds")


def _suggest_lr(
    found: LRRangeTest, run: Run, base_lr: float, command: Sequence[str]
) -> Sequence[str]:
    if found.steepest_step is None:
        return [
            "Suggests nothing: the loss never fell; look at the picture, and use other from, to"
        ]
    rate = found.learning_rates[found.steepest_step]
    lines = [
        f"Suggests optimizer.lr={rate:.2g}, where the loss falls fastest; now it is {base_lr:g}"
    ]
    if len(found.learning_rates) < MIN_RELIABLE_STEPS:
        lines.append(
            f"Caution {len(found.learning_rates)} steps are few, so that may lie far off; take 100 or more"
        )
    if any(lr != base_lr for lr in run.base_lr.values()):
        groups = ", ".join(f"{name} {lr * rate / base_lr:.2g}" for name, lr in run.base_lr.items())
        lines.append(f"  with the same factor on every group: {groups}")
    rest = [word for word in command if not word.startswith("optimizer.lr=")]
    lines.append(f"Try it   python -m recipe {' '.join([*rest, f'optimizer.lr={rate:.2g}'])}")
    lines.append("One batch a rate is a hint, not a comparison: a sweep over optimizer.lr is one")
    return lines
