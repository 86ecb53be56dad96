"""What came of a search: the best trial, how to run it alone, and how much that says."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from recipe.compare.metric_unit import Unit
from recipe.evidence.statistics import interval
from recipe.formatting import counted, listed
from recipe.store import sweep_jobs, sweep_record
from recipe.sweep.search import dimension, storage
from recipe.sweep.search.study import name

if TYPE_CHECKING:
    import optuna

STATES = {"COMPLETE": "whole", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "not finished"}

ENOUGH = 10
"""Whole trials from which the importance of settings is told."""


@dataclass(frozen=True)
class Found:
    about: Mapping[str, Any]
    study: optuna.Study

    @property
    def trials(self) -> list[optuna.trial.FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    @property
    def whole(self) -> list[optuna.trial.FrozenTrial]:
        return [trial for trial in self.trials if trial.state.name == "COMPLETE"]


def is_whole(sweep: Path) -> bool:
    """Whether as many trials as were asked for have ended, none by a fault: that numbers aren't
    finite, or a run is pruned, is a result."""
    found = _read(sweep)
    if len(found.trials) < found.about["search"]["trials"] or not found.whole:
        return False
    faults = [
        e for e in sweep_jobs.read(sweep) if e.status in ("FAILED", "REFUSED") and not e.diverged
    ]
    return not faults and all(trial.state.is_finished() for trial in found.trials)


def show(sweep: Path, console: Console) -> None:
    for line in _lines(sweep):
        console.print(line, soft_wrap=True)


def markdown(sweep: Path) -> str:
    return "".join(f"- {line}\n" for line in _lines(sweep))


def command(about: Mapping[str, Any], trial: optuna.trial.FrozenTrial, seed: str) -> str:
    """What runs a trial alone."""
    chosen = [each.override(trial.params[each.key]) for each in dimension.of(about)]
    return " ".join(["python -m recipe", *map(shlex.quote, [*about["fixed"], *chosen, seed])])


def _read(sweep: Path) -> Found:
    import optuna

    about = sweep_record.read(sweep)
    there = storage.opened(storage.address(about["search"]["storage"], sweep.parent.parent))
    return Found(about, optuna.load_study(study_name=name(sweep), storage=there))


def _lines(sweep: Path) -> Iterator[str]:
    found = _read(sweep)
    asked, seeds = found.about["search"], found.about["seeds"]
    unit = Unit(asked["metric"])
    states = Counter(STATES[trial.state.name] for trial in found.trials)
    ends = ", ".join(f"{states[state]} {state}" for state in STATES.values() if states[state])
    alike = len({tuple(trial.params.items()) for trial in found.trials})
    told = f", of {alike} different settings" if alike < len(found.trials) else ""
    yield f"Trials  {len(found.trials)} of {asked['trials']}: {ends}{told}"
    if not found.whole:
        yield "Best    none: no trial is whole"
        return
    best = found.study.best_trial
    values = best.user_attrs["values over seeds"]
    yield f"Best    trial {best.number + 1}: {unit.metric} {_value(values, unit)}"
    first = seeds[0] if len(seeds) == 1 else _swept(seeds)
    run = command(found.about, best, first)
    yield f"Run it  {run if len(seeds) == 1 else run.replace(' -m recipe', ' -m recipe -m', 1)}"
    if len(found.whole) > 1:
        yield (
            f"Caution that is the best of {counted(len(found.whole), 'whole trial')}, chosen by "
            "the same validation samples and seeds that its value is of, so it is too good on "
            "average; what it is worth, seeds that the search didn't have and samples held out tell"
        )
    yield from _importance(found)


def _value(values: list[float], unit: Unit) -> str:
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{unit.shown(mean)} (one seed, so how much it varies isn't known)"
    ends = unit.possible(interval(values))
    span = f"95 % interval {unit.span(ends.low, ends.high)}"
    each = listed([unit.shown(value) for value in values], 5)
    return f"{unit.shown(mean)} (mean of {len(values)} seeds, {span}; {each})"


def _swept(seeds: list[str]) -> str:
    return f"seed={','.join(seed.removeprefix('seed=') for seed in seeds)}"


def _importance(found: Found) -> Iterator[str]:
    """How much of what differs between the whole trials goes with each setting, by fANOVA."""
    import optuna

    if len(found.whole) < ENOUGH or len({trial.value for trial in found.whole}) < 2:
        return
    judge = optuna.importance.FanovaImportanceEvaluator(seed=0)
    try:
        shares = optuna.importance.get_param_importances(found.study, evaluator=judge)
    except (ValueError, RuntimeError):  # too few values of a setting were tried
        return
    told = ", ".join(f"{key} {100 * share:.0f} %" for key, share in shares.items())
    yield f"Weight  of the settings in {counted(len(found.whole), 'whole trial')}, roughly: {told}"
