"""The outcome of a search: the best trial, its command line, and the importance of settings."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from rich.console import Console

from recipe.compare.metric_unit import MetricUnit
from recipe.evidence.intervals import t_interval
from recipe.formatting import format_list, pluralize
from recipe.store import sweep_jobs, sweep_record
from recipe.sweep.plan import join_seeds
from recipe.sweep.search import dimension
from recipe.sweep.search.study import load_study

STATE_LABELS = {
    "COMPLETE": "completed",
    "PRUNED": "pruned",
    "FAIL": "failed",
    "RUNNING": "not finished",
}

MIN_TRIALS_FOR_IMPORTANCE = 10


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
    """Whether all trials have ended, none by an error: a diverged or pruned run is a result."""
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


def format_trial_command(metadata: Mapping[str, Any], trial: optuna.trial.FrozenTrial) -> str:
    """The command line that runs a trial, with every seed."""
    dimensions, seeds = dimension.load_dimensions(metadata), metadata["seeds"]
    chosen = [each.to_override(trial.params[each.key]) for each in dimensions]
    overrides = shlex.join([*metadata["fixed"], *chosen, join_seeds(seeds)])
    return f"python -m recipe{' -m' if len(seeds) > 1 else ''} {overrides}"


def _load_outcome(sweep_dir: Path) -> SearchOutcome:
    about = sweep_record.read_record(sweep_dir)
    return SearchOutcome(about, load_study(sweep_dir, about["search"]))


def _format_lines(sweep_dir: Path) -> Iterator[str]:
    found = _load_outcome(sweep_dir)
    requested = found.metadata["search"]
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
    yield f"Run it  {format_trial_command(found.metadata, best)}"
    if len(found.completed_trials) > 1:
        completed = pluralize(len(found.completed_trials), "completed trial")
        yield (
            f"Caution that is the best of {completed}, chosen by the same validation samples and "
            "seeds as its value, which is therefore too good on average; measure it with other "
            "seeds and held-out samples"
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


def _format_importance(outcome: SearchOutcome) -> Iterator[str]:
    """The share of the variance between completed trials that each setting explains, by fANOVA."""
    if (
        len(outcome.completed_trials) < MIN_TRIALS_FOR_IMPORTANCE
        or len({trial.value for trial in outcome.completed_trials}) < 2
    ):
        return
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    try:
        shares = optuna.importance.get_param_importances(outcome.study, evaluator=evaluator)
    except (ValueError, RuntimeError):  # too few values of a setting were tried
        return
    message = ", ".join(f"{key} {100 * share:.0f} %" for key, share in shares.items())
    yield (
        "Weight  of the settings in "
        f"{pluralize(len(outcome.completed_trials), 'completed trial')}, roughly: {message}"
    )
