"""A run of a search, in the process that runs it: tells Optuna how it goes, and ends where that is
too bad."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from recipe.runner.signals import RunPruned
from recipe.sweep import search_storage

if TYPE_CHECKING:
    import optuna

    from recipe.training.loop import MetricsEvent


def make_pruning_callback(
    sweep_dir: Path, metadata: Mapping[str, Any], job_number: int, epochs: int, console: Console
) -> Callable[[MetricsEvent], None] | None:
    """What is to see every Point of a job's run; None where it is none of a trial that may be
    pruned. Only the run of a trial's first seed may be."""
    if "search" not in metadata or metadata["search"]["pruner"] == "none":
        return None
    if metadata["planned"][job_number][-1] != metadata["seeds"][0]:
        return None
    return _PruningCallback(
        sweep_dir, metadata["search"], metadata["trials"][job_number], epochs, console
    )


class _PruningCallback:
    """Raises Pruned after the epoch in which the pruner says so."""

    def __init__(
        self,
        sweep_dir: Path,
        settings: Mapping[str, Any],
        trial_number: int,
        epochs: int,
        console: Console,
    ) -> None:
        self._sweep_dir, self._settings, self._trial_number = sweep_dir, settings, trial_number
        self._epochs, self._console = epochs, console
        self._trial: optuna.trial.Trial | None = None

    def __call__(self, point: MetricsEvent) -> None:
        if not point.is_epoch_end:
            return
        value = float(point.metrics[self._settings["metric"]])
        try:
            prune = self._should_prune(point.epoch, value)
        except Exception as error:  # whatever Optuna and its storage raise, training goes on
            message = (
                f"epoch {point.epoch} is not reported to the search: "
                f"{search_storage.format_error(error)}"
            )
            self._console.print(f"Caution {message}", style="yellow", soft_wrap=True)
            return
        if prune and point.epoch < self._epochs:
            raise RunPruned(
                f"after epoch {point.epoch} of {self._epochs}: {self._settings['metric']} "
                f"{value:.4g} is worse than the median of the completed trials then"
            )

    def _should_prune(self, epoch: int, value: float) -> bool:
        if self._trial is None:
            self._trial = self._load_trial()
        known = self._trial.study.get_trials(deepcopy=False)[self._trial_number]
        if epoch not in known.intermediate_values:  # a run that was taken up reports it again
            self._trial.report(value, epoch)
        return self._trial.should_prune()

    def _load_trial(self) -> optuna.trial.Trial:
        import optuna

        there = search_storage.open_storage(
            search_storage.resolve_address(self._settings["storage"], self._sweep_dir.parent.parent)
        )
        judge = search_storage.make_pruner(
            self._settings["pruner"], self._settings["startup"], self._settings["warmup"]
        )
        study = optuna.load_study(
            study_name=search_storage.get_study_name(self._sweep_dir), storage=there, pruner=judge
        )
        frozen = study.get_trials(deepcopy=False)[self._trial_number]
        return optuna.trial.Trial(study, frozen._trial_id)
