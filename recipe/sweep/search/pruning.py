"""A run of a search, in the process that runs it: tells Optuna how it goes, and ends where that is
too bad."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from recipe.runner.interruption import Pruned
from recipe.sweep.search import storage
from recipe.sweep.search.study import name

if TYPE_CHECKING:
    import optuna

    from recipe.training.loop import Point


def watch(
    sweep: Path, about: Mapping[str, Any], number: int, epochs: int, console: Console
) -> Callable[[Point], None] | None:
    """What is to see every Point of a job's run; None where it is none of a trial that may be
    pruned. Only the run of a trial's first seed may be."""
    if "search" not in about or about["search"]["pruner"] == "none":
        return None
    if about["planned"][number][-1] != about["seeds"][0]:
        return None
    return _Watch(sweep, about["search"], about["trials"][number], epochs, console)


class _Watch:
    """Raises Pruned after the epoch in which the pruner says so."""

    def __init__(
        self, sweep: Path, asked: Mapping[str, Any], trial: int, epochs: int, console: Console
    ) -> None:
        self._sweep, self._asked, self._number = sweep, asked, trial
        self._epochs, self._console = epochs, console
        self._trial: optuna.trial.Trial | None = None

    def __call__(self, point: Point) -> None:
        if not point.ends_epoch:
            return
        value = float(point.metrics[self._asked["metric"]])
        try:
            prune = self._report(point.epoch, value)
        except Exception as error:  # whatever Optuna and its storage raise, training goes on
            told = f"epoch {point.epoch} is not reported to the search: {storage.reason(error)}"
            self._console.print(f"Caution {told}", style="yellow", soft_wrap=True)
            return
        if prune and point.epoch < self._epochs:
            raise Pruned(
                f"after epoch {point.epoch} of {self._epochs}: {self._asked['metric']} "
                f"{value:.4g} is worse than the median of the whole trials then"
            )

    def _report(self, epoch: int, value: float) -> bool:
        if self._trial is None:
            self._trial = self._load()
        known = self._trial.study.get_trials(deepcopy=False)[self._number]
        if epoch not in known.intermediate_values:  # a run that was taken up reports it again
            self._trial.report(value, epoch)
        return self._trial.should_prune()

    def _load(self) -> optuna.trial.Trial:
        import optuna

        there = storage.opened(storage.address(self._asked["storage"], self._sweep.parent.parent))
        judge = storage.pruner(self._asked["pruner"], self._asked["startup"], self._asked["warmup"])
        study = optuna.load_study(study_name=name(self._sweep), storage=there, pruner=judge)
        frozen = study.get_trials(deepcopy=False)[self._number]
        return optuna.trial.Trial(study, frozen._trial_id)
