"""`find-lr`: the range test of a spec, told and drawn."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from recipe import output
from recipe.config.spec import RunSpec
from recipe.formatting import relative
from recipe.runner import component_errors, lr_range_test
from recipe.runner.lr_range_test import RangeTest
from recipe.store import run_dirs
from recipe.training.run import Run

FEW = 50
"""Steps up to which a suggestion is a rough one."""


def find_lr(
    spec: RunSpec,
    run: Run,
    console: Console,
    *,
    lowest: float,
    highest: float,
    steps: int,
    command: Sequence[str],
) -> None:
    """Runs the test, keeps its picture below `<outputs>/reports/`, and says what it suggests.

    `command` are the overrides that the spec was given by.
    """
    output.task("training at rising learning rates")
    own = float(spec.optimizer["lr"])
    lr_range_test.check(own, lowest=lowest, highest=highest, steps=steps)
    folder = spec.output_path / "reports"
    folder.mkdir(parents=True, exist_ok=True)
    with component_errors.reported(spec, run):
        found = lr_range_test.range_test(run, own, lowest=lowest, highest=highest, steps=steps)
    path = folder / f"find-lr-{run_dirs.new_id()}.png"
    lr_range_test.picture(found, path)
    console.print(_course(found), soft_wrap=True)
    for line in _suggestion(found, run, own, command):
        console.print(line, soft_wrap=True)
    console.print(f"Picture  {relative(path)}", soft_wrap=True)


def _course(found: RangeTest) -> str:
    lowest = found.lowest
    end = "the loss grew out of bounds" if found.diverged else "the end"
    return (
        f"{len(found.rates)} steps, optimizer.lr from {found.rates[0]:.2g} to "
        f"{found.rates[-1]:.2g}, where {end} was reached; smoothed loss {found.smoothed[0]:.4g} at "
        f"first, lowest {found.smoothed[lowest]:.4g} at {found.rates[lowest]:.2g}"
    ).replace("the loss grew out of bounds was reached", "the loss grew out of bounds")


def _suggestion(found: RangeTest, run: Run, own: float, command: Sequence[str]) -> Sequence[str]:
    if found.steepest is None:
        return [
            "Suggests nothing: the loss never fell; look at the picture, and use other from, to"
        ]
    rate = found.rates[found.steepest]
    lines = [f"Suggests optimizer.lr={rate:.2g}, where the loss falls fastest; now it is {own:g}"]
    if len(found.rates) < FEW:
        lines.append(
            f"Caution {len(found.rates)} steps are few, so that may lie far off; take 100 or more"
        )
    if any(lr != own for lr in run.base_lr.values()):
        groups = ", ".join(f"{name} {lr * rate / own:.2g}" for name, lr in run.base_lr.items())
        lines.append(f"  with the same factor on every group: {groups}")
    rest = [word for word in command if not word.startswith("optimizer.lr=")]
    lines.append(f"Try it   python -m recipe {' '.join([*rest, f'optimizer.lr={rate:.2g}'])}")
    lines.append("One batch a rate is a hint, not a comparison: a sweep over optimizer.lr is one")
    return lines
