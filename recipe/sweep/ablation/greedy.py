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

CRITERION = f"bare means over the seeds of {METRIC} after the last epoch"
"""What a step rests on."""

LaunchFunction = Callable[[Sequence[Sequence[str]], int], None]
"""Runs jobs of which the first has that number."""

Scores = Mapping[Variant, float | str]
"""The mean of a variant, or why it has none."""


def run_greedy_selection(sweep_dir: Path, launch_jobs: LaunchFunction) -> None:
    """Runs round after round; the path is kept in sweep.json and printed."""
    console = Console(width=100)
    about = sweep_record.read_record(sweep_dir)
    tricks = [_parse_trick(told) for told in about["tricks"]]
    planned = set(about["variants"])
    best: Variant = ()
    rivals = [trick for trick in tricks if trick.label in planned]
    scores = _run_round(sweep_dir, launch_jobs, [(), *((trick,) for trick in rivals)], tricks, 0)
    score = scores[()]
    if isinstance(score, str):
        return _record_stop(sweep_dir, console, f"the baseline has no mean: {score}")
    path = [_make_step(best, None, score)]
    while True:
        chosen, why = select_best_variant(best, score, scores)
        if chosen is not None:
            (added,) = set(chosen) - set(best)
            best, score = chosen, float(scores[chosen])
            path.append(_make_step(best, added, score))
        sweep_record.update_record(sweep_dir, path=path)
        rivals = [trick for trick in rivals if trick not in best]
        if chosen is None or not rivals:
            return _record_stop(sweep_dir, console, why or "every trick is on", path)
        others = (
            "the other trick" if len(rivals) == 1 else f"each of the other {len(rivals)} tricks"
        )
        console.print(f"\n{format_path(path)}; next: {others}")
        nexts = [variants.sort_tricks([*best, trick]) for trick in rivals]
        scores = _run_round(
            sweep_dir,
            launch_jobs,
            nexts,
            tricks,
            len(sweep_record.read_record(sweep_dir)["planned"]),
        )


def select_best_variant(best: Variant, score: float, scores: Scores) -> tuple[Variant | None, str]:
    """The variant of a round that is better than the best so far; else None, and why."""
    rivals = {v: mean for v, mean in scores.items() if v != best and not isinstance(mean, str)}
    without = [
        f"{variants.format_variant(v)}: {why}" for v, why in scores.items() if isinstance(why, str)
    ]
    first = max(rivals, key=lambda variant: rivals[variant], default=None)
    if first is not None and rivals[first] > score:
        return first, ""
    unknown = f" (not known of {'; '.join(without)})" if without else ""
    return None, f"nothing more helps{unknown}"


def format_path(path: Sequence[Mapping[str, Any]]) -> str:
    """`Path  baseline 80.10 % -> +clip=norm 83.22 %`."""
    steps = [f"{'+' if at['added'] else ''}{at['added'] or at['variant']} {100 * at['mean']:.2f} %"
             for at in path]  # fmt: skip
    return f"Path  {' -> '.join(steps)}"


def _run_round(
    sweep_dir: Path,
    launch_jobs: LaunchFunction,
    round_variants: Sequence[Variant],
    tricks: Sequence[Trick],
    first_number: int,
) -> dict[Variant, float | str]:
    """Runs a round; its jobs stand in sweep.json before they are launched."""
    about = sweep_record.read_record(sweep_dir)
    pairs = variants.make_jobs_by_seed(round_variants, tricks, about["seeds"])
    recorded = run_dirs.get_runs_dir(sweep_dir.parent.parent)
    planned = about["planned"][:first_number] + [list(swept) for _, swept in pairs]
    names = about["variants"][:first_number] + [name for name, _ in pairs]
    sweep_record.update_record(sweep_dir, planned=planned, variants=names, jobs=len(planned))
    launch_jobs([[*about["fixed"], *swept] for _, swept in pairs], first_number)
    ended = {each.number: each for each in sweep_jobs.read_results(sweep_dir)}
    numbers = range(first_number, len(planned))
    return {
        variant: _mean_score(
            [ended.get(n) for n in numbers if names[n] == variants.format_variant(variant)],
            recorded,
        )
        for variant in round_variants
    }


def _mean_score(ended_jobs: Sequence[sweep_jobs.JobResult | None], runs_dir: Path) -> float | str:
    """The mean over a complete set of seeds, or what it lacks; their runs lie in `recorded`."""
    values = []
    for each in ended_jobs:
        if each is None or each.status != "FINISHED":
            return "a run is missing" if each is None else f"{each.name} {each.status}"
        result = results.read_result(runs_dir / Path(each.run or "").name)
        value = result.last.get(METRIC, math.nan) if result else math.nan
        if not math.isfinite(value):
            return f"{each.name} has no {METRIC}"
        values.append(value)
    return sum(values) / len(values)


def _make_step(variant: Variant, added: Trick | None, mean: float) -> dict[str, Any]:
    return {
        "variant": variants.format_variant(variant),
        "added": added.label if added else None,
        "mean": mean,
    }


def _record_stop(
    sweep_dir: Path, console: Console, reason: str, path: Sequence[Mapping[str, Any]] = ()
) -> None:
    sweep_record.update_record(sweep_dir, path=list(path), stopped=reason, by=CRITERION)
    told = f"{format_path(path)}; {reason}\nThat goes by {CRITERION}: compare says how sure each step is"
    console.print(f"\n{told}" if path else f"\nStopped: {reason}", soft_wrap=True)


def _parse_trick(fields: Mapping[str, Any]) -> Trick:
    return Trick(
        fields["group"], fields["option"], tuple(fields["overrides"]), tuple(fields["off"])
    )
