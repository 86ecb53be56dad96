"""What came of a search: the best trial, how to run it alone, and how much that says."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from recipe.compare.metric_unit import MetricUnit
from recipe.evidence.intervals import t_interval
from recipe.formatting import format_list, pluralize
from recipe.store import sweep_jobs, sweep_record
from recipe.sweep import search_storage
from recipe.sweep.search import dimension
from recipe.sweep.search_storage import get_study_name

if TYPE_CHECKING:
    import optuna

STATE_LABELS = {
    "COMPLETE": "whole",
    "PRUNED": "pruned",
    "FAIL": "failed",
    "RUNNING": "not finished",
}

MIN_TRIALS_FOR_IMPORTANCE = 10
"""Whole trials from which the importance of settings is told."""


@dataclass(frozen=True)
class SearchOutcome:
    metadata: Mapping[str, Any]
    study: optuna.Study

    @property
    def trials(self) -> list[optuna.trial.FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    @property
    def completed_trials(self) -> list[optuna.trial.FrozenTrial]:
        return [trial for trial in self.trials if trial.state.name == "COMPLETE"]


def is_complete(sweep_dir: Path) -> bool:
    """Whether as many trials as were asked for have ended, none by a fault: that numbers aren't
    finite, or a run is pruned, is a result."""
    found = _load_outcome(sweep_dir)
    if len(found.trials) < found.metadata["search"]["trials"] or not found.completed_trials:
        return False
    faults = [
        e
        for e in sweep_jobs.read_results(sweep_dir)
        if e.status in ("FAILED", "REFUSED") and not e.diverged
    ]
    return not faults and all(trial.state.is_finished() for trial in found.trials)


def print_outcome(sweep_dir: Path, console: Console) -> None:
    for line in _format_lines(sweep_dir):
        console.print(line, soft_wrap=True)


def format_markdown(sweep_dir: Path) -> str:
    return "".join(f"- {line}\n" for line in _format_lines(sweep_dir))


def format_trial_command(
    metadata: Mapping[str, Any], trial: optuna.trial.FrozenTrial, seed: str
) -> str:
    """What runs a trial alone."""
    chosen = [
        each.to_override(trial.params[each.key]) for each in dimension.load_dimensions(metadata)
    ]
    return " ".join(["python -m recipe", *map(shlex.quote, [*metadata["fixed"], *chosen, seed])])


def _load_outcome(sweep_dir: Path) -> SearchOutcome:
    import optuna

    about = sweep_record.read_record(sweep_dir)
    there = search_storage.open_storage(
        search_storage.resolve_address(about["search"]["storage"], sweep_dir.parent.parent)
    )
    return SearchOutcome(
        about, optuna.load_study(study_name=get_study_name(sweep_dir), storage=there)
    )


def _format_lines(sweep_dir: Path) -> Iterator[str]:
    found = _load_outcome(sweep_dir)
    requested, seeds = found.metadata["search"], found.metadata["seeds"]
    unit = MetricUnit(requested["metric"])
    states = Counter(STATE_LABELS[trial.state.name] for trial in found.trials)
    ends = ", ".join(f"{states[state]} {state}" for state in STATE_LABELS.values() if states[state])
    alike = len({tuple(trial.params.items()) for trial in found.trials})
    message = f", of {alike} different settings" if alike < len(found.trials) else ""
    yield f"Trials  {len(found.trials)} of {requested['trials']}: {ends}{message}"
    if not found.completed_trials:
        yield "Best    none: no trial is completed"
        return
    best = found.study.best_trial
    values = best.user_attrs["values over seeds"]
    yield f"Best    trial {best.number + 1}: {unit.metric} {_format_value(values, unit)}"
    first = seeds[0] if len(seeds) == 1 else _join_seeds(seeds)
    run = format_trial_command(found.metadata, best, first)
    yield f"Run it  {run if len(seeds) == 1 else run.replace(' -m recipe', ' -m recipe -m', 1)}"
    if len(found.completed_trials) > 1:
        yield (
            "Caution that is the best of "
            f"{pluralize(len(found.completed_trials), 'completed trial')}, chosen by "
            "the same validation samples and seeds that its value is of, so it is too good on "
            "average; what it is worth, seeds that the search didn't have and samples held out tell"
        )
    yield from _format_importance(found)


def _format_value(values: list[float], unit: MetricUnit) -> str:
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{unit.format_value(mean)} (one seed, so how much it varies isn't known)"
    ends = unit.clip_interval(t_interval(values))
    span = f"95 % interval {unit.format_range(ends.low, ends.high)}"
    each = format_list([unit.format_value(value) for value in values], 5)
    return f"{unit.format_value(mean)} (mean of {len(values)} seeds, {span}; {each})"


def _join_seeds(seeds: list[str]) -> str:
    return f"seed={','.join(seed.removeprefix('seed=') for seed in seeds)}"


def _format_importance(outcome: SearchOutcome) -> Iterator[str]:
    """How much of what differs between the completed trials goes with each setting, by fANOVA."""
    import optuna

    if (
        len(outcome.completed_trials) < MIN_TRIALS_FOR_IMPORTANCE
        or len({trial.value for trial in outcome.completed_trials}) < 2
    ):
        return
    judge = optuna.importance.FanovaImportanceEvaluator(seed=0)
    try:
        shares = optuna.importance.get_param_importances(outcome.study, evaluator=judge)
    except (ValueError, RuntimeError):  # too few values of a setting were tried
        return
    message = ", ".join(f"{key} {100 * share:.0f} %" for key, share in shares.items())
    yield (
        "Weight  of the settings in "
        f"{pluralize(len(outcome.completed_trials), 'completed trial')}, roughly: {message}"
    )
