"""The greedy plan: the trick that helps most is kept, round by round, until none helps.

What counts is the mean over the seeds of each run's val/accuracy after the last epoch, as in the
report, and no test. A variant that lacks a run can't be chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recipe.runner.console import Console
from recipe.store import results, run_dirs, sweep_jobs, sweep_record
from recipe.sweep.ablation import variants
from recipe.sweep.ablation.variants import Trick, Variant

METRIC = "val/accuracy"

BY = f"bare means over the seeds of {METRIC} after the last epoch"
"""What a step rests on."""

Launch = Callable[[Sequence[Sequence[str]], int], None]
"""Runs jobs of which the first has that number."""

Scores = Mapping[Variant, float | str]
"""The mean of a variant, or why it has none."""


def climb(sweep: Path, launch: Launch) -> None:
    """Runs round after round; the path is kept in sweep.json and printed."""
    console = Console(width=100)
    about = sweep_record.read(sweep)
    tricks = [_trick(told) for told in about["tricks"]]
    planned = set(about["variants"])
    best: Variant = ()
    rivals = [trick for trick in tricks if trick.label in planned]
    scores = _run(sweep, launch, [(), *((trick,) for trick in rivals)], tricks, 0)
    score = scores[()]
    if isinstance(score, str):
        return _stop(sweep, console, f"the baseline has no mean: {score}")
    path = [_stage(best, None, score)]
    while True:
        chosen, why = choose(best, score, scores)
        if chosen is not None:
            (added,) = set(chosen) - set(best)
            best, score = chosen, float(scores[chosen])
            path.append(_stage(best, added, score))
        sweep_record.note(sweep, path=path)
        rivals = [trick for trick in rivals if trick not in best]
        if chosen is None or not rivals:
            return _stop(sweep, console, why or "every trick is on", path)
        others = (
            "the other trick" if len(rivals) == 1 else f"each of the other {len(rivals)} tricks"
        )
        console.print(f"\n{said(path)}; next: {others}")
        nexts = [variants.ordered([*best, trick]) for trick in rivals]
        scores = _run(sweep, launch, nexts, tricks, len(sweep_record.read(sweep)["planned"]))


def choose(best: Variant, score: float, scores: Scores) -> tuple[Variant | None, str]:
    """The variant of a round that is better than the best so far; else None, and why."""
    rivals = {v: mean for v, mean in scores.items() if v != best and not isinstance(mean, str)}
    without = [f"{variants.name(v)}: {why}" for v, why in scores.items() if isinstance(why, str)]
    first = max(rivals, key=lambda variant: rivals[variant], default=None)
    if first is not None and rivals[first] > score:
        return first, ""
    unknown = f" (not known of {'; '.join(without)})" if without else ""
    return None, f"nothing more helps{unknown}"


def said(path: Sequence[Mapping[str, Any]]) -> str:
    """`Path  baseline 80.10 % -> +clip=norm 83.22 %`."""
    steps = [f"{'+' if at['added'] else ''}{at['added'] or at['variant']} {100 * at['mean']:.2f} %"
             for at in path]  # fmt: skip
    return f"Path  {' -> '.join(steps)}"


def _run(
    sweep: Path, launch: Launch, among: Sequence[Variant], tricks: Sequence[Trick], first: int
) -> dict[Variant, float | str]:
    """Runs a round; its jobs stand in sweep.json before they are launched."""
    about = sweep_record.read(sweep)
    pairs = variants.seed_major(among, tricks, about["seeds"])
    recorded = run_dirs.folder(sweep.parent.parent)
    planned = about["planned"][:first] + [list(swept) for _, swept in pairs]
    names = about["variants"][:first] + [name for name, _ in pairs]
    sweep_record.note(sweep, planned=planned, variants=names, jobs=len(planned))
    launch([[*about["fixed"], *swept] for _, swept in pairs], first)
    ended = {each.number: each for each in sweep_jobs.read(sweep)}
    numbers = range(first, len(planned))
    return {
        variant: _mean(
            [ended.get(n) for n in numbers if names[n] == variants.name(variant)], recorded
        )
        for variant in among
    }


def _mean(ended: Sequence[sweep_jobs.Ended | None], recorded: Path) -> float | str:
    """The mean over a complete set of seeds, or what it lacks; their runs lie in `recorded`."""
    values = []
    for each in ended:
        if each is None or each.status != "FINISHED":
            return "a run is missing" if each is None else f"{each.name} {each.status}"
        result = results.read(recorded / Path(each.run or "").name)
        value = result.last.get(METRIC, math.nan) if result else math.nan
        if not math.isfinite(value):
            return f"{each.name} has no {METRIC}"
        values.append(value)
    return sum(values) / len(values)


def _stage(variant: Variant, added: Trick | None, mean: float) -> dict[str, Any]:
    return {
        "variant": variants.name(variant),
        "added": added.label if added else None,
        "mean": mean,
    }


def _stop(sweep: Path, console: Console, why: str, path: Sequence[Mapping[str, Any]] = ()) -> None:
    sweep_record.note(sweep, path=list(path), stopped=why, by=BY)
    told = f"{said(path)}; {why}\nThat goes by {BY}: compare says how sure each step is"
    console.print(f"\n{told}" if path else f"\nStopped: {why}", soft_wrap=True)


def _trick(told: Mapping[str, Any]) -> Trick:
    return Trick(told["group"], told["option"], tuple(told["overrides"]), tuple(told["off"]))
