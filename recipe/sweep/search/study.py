"""Optuna's study of a search: its storage, its trials, and the pruning of their runs.

The study of a sweep is stored in sqlite beside the runs, or in PostgreSQL. The process of the sweep
creates trials and completes them; the processes of runs report to them.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from rich.console import Console

from recipe.compare.metric_unit import MetricUnit
from recipe.components.tracking.local import database_path, database_uri
from recipe.errors import SpecError
from recipe.runner.console import print_caution
from recipe.runner.signals import RunPruned
from recipe.store import sweep_record
from recipe.sweep.search import dimension
from recipe.sweep.search.dimension import Dimension
from recipe.training.loop import MetricsEvent

LOCK_TIMEOUT_SECONDS = 60

TrialParams = Mapping[str, Any]
"""A value for the key of each dimension."""


def open_storage(configured_address: str | None, output_dir: Path) -> BaseStorage:
    """Opens or creates the storage; by default search.db in the outputs. Raises SpecError if it
    can't be reached."""
    address = configured_address or database_uri(output_dir / "search.db")
    optuna.logging.set_verbosity(logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    options: dict[str, Any] = {}
    if path := database_path(address):
        path.parent.mkdir(parents=True, exist_ok=True)
        options = {"connect_args": {"timeout": LOCK_TIMEOUT_SECONDS}}
    # the default driver of SQLAlchemy is psycopg
    address_with_driver = re.sub(r"^postgresql:", "postgresql+psycopg2:", address)
    try:
        return optuna.storages.RDBStorage(address_with_driver, engine_kwargs=options)
    except Exception as error:  # whatever Optuna, SQLAlchemy or the driver raise
        raise SpecError(f"storage={address}: {_format_error(error)}") from error


def _format_error(error: Exception) -> str:
    """In one line, without SQLAlchemy's link."""
    text = " ".join(str(error.__cause__ or error).split())
    return re.sub(r" ?\(Background on this error at: .*?\)", "", text)[:300]


def load_study(
    sweep_dir: Path, settings: Mapping[str, Any], pruner: BasePruner | None = None
) -> optuna.Study:
    return optuna.load_study(
        study_name=get_study_name(sweep_dir),
        storage=open_storage(settings["storage"], sweep_dir.parent.parent),
        pruner=pruner,
    )


def get_study_name(sweep_dir: Path) -> str:
    return f"recipe-{sweep_dir.name}"


class SweepStudy:
    """The study of a sweep, in the process of the sweep."""

    def __init__(self, study: optuna.Study, dimensions: Sequence[Dimension]) -> None:
        self._study = study
        self.distributions = {d.key: to_distribution(d) for d in dimensions}

    @classmethod
    def load_or_create(cls, sweep_dir: Path) -> SweepStudy:
        """Raises SpecError if the storage can't be reached, or has no study of a resumed sweep."""
        about = sweep_record.read_record(sweep_dir)
        settings = about["search"]
        is_higher_better = MetricUnit(settings["metric"]).direction > 0
        study = optuna.create_study(
            study_name=get_study_name(sweep_dir),
            storage=open_storage(settings["storage"], sweep_dir.parent.parent),
            direction="maximize" if is_higher_better else "minimize",
            load_if_exists=True,
        )
        n_recorded, n_stored = len(set(about["trials"])), len(study.get_trials(deepcopy=False))
        if n_stored < n_recorded:
            raise SpecError(
                f"search: of the {n_recorded} trials of {sweep_dir.name} its storage has "
                f"{n_stored}; restore it, or start from scratch with again=true"
            )
        study.sampler = _make_sampler(settings["sampler"], settings["startup"], n_stored)
        return cls(study, dimension.load_dimensions(about))

    @property
    def trials(self) -> list[optuna.trial.FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def ask(self) -> tuple[int, TrialParams]:
        """The number of the next trial, from 0, and its parameters."""
        trial = self._study.ask(self.distributions)
        return trial.number, trial.params

    def complete_trial(
        self, number: int, values: Sequence[float], epoch_values: Sequence[float]
    ) -> None:
        """Ends a trial with its value for each seed. `epoch_values`: the metric of the first seed's
        run after each epoch, of which those are stored that the run itself didn't report."""
        known = self.trials[number]
        trial = optuna.trial.Trial(self._study, known._trial_id)
        for epoch, value in enumerate(epoch_values, 1):
            if epoch not in known.intermediate_values:
                trial.report(value, epoch)
        trial.set_user_attr("values over seeds", list(values))
        self._study.tell(number, sum(values) / len(values))

    def end_trial(self, number: int, state: str) -> None:
        """Ends a trial without a value: PRUNED or FAIL."""
        self._study.tell(number, state=optuna.trial.TrialState[state])


def to_distribution(searched: Dimension) -> BaseDistribution:
    if searched.options:
        return CategoricalDistribution(searched.options)
    if searched.is_integer:
        step = 1 if searched.step is None else int(searched.step)
        return IntDistribution(int(searched.low), int(searched.high), log=searched.log, step=step)
    return FloatDistribution(searched.low, searched.high, log=searched.log, step=searched.step)


def _make_sampler(name: str, startup: int, n_trials: int) -> BaseSampler:
    """The next samples depend on the number of earlier trials alone, also in a resumed search."""
    if name == "random":
        return optuna.samplers.RandomSampler(seed=n_trials)
    return optuna.samplers.TPESampler(n_startup_trials=startup, seed=n_trials)


def make_pruning_callback(
    sweep_dir: Path, metadata: Mapping[str, Any], job_number: int, epochs: int, console: Console
) -> Callable[[MetricsEvent], None] | None:
    """A callback for the metrics of a job's run that raises RunPruned; None if the run can't be
    pruned: only the run of a trial's first seed can be."""
    if metadata["search"]["pruner"] == "none":
        return None
    if metadata["planned"][job_number][-1] != metadata["seeds"][0]:
        return None
    return _PruningCallback(
        sweep_dir, metadata["search"], metadata["trials"][job_number], epochs, console
    )


@dataclass
class _PruningCallback:
    sweep_dir: Path
    settings: Mapping[str, Any]
    trial_number: int
    epochs: int
    console: Console
    trial: optuna.trial.Trial | None = None

    def __call__(self, event: MetricsEvent) -> None:
        if not event.is_epoch_end:
            return
        value = float(event.metrics[self.settings["metric"]])
        try:
            should_prune = self._should_prune(event.epoch, value)
        except Exception as error:  # whatever Optuna and its storage raise, training continues
            message = f"epoch {event.epoch} is not reported to the search: {_format_error(error)}"
            return print_caution(self.console, message)
        if should_prune and event.epoch < self.epochs:
            raise RunPruned(
                f"after epoch {event.epoch} of {self.epochs}: {self.settings['metric']} "
                f"{value:.4g} is worse than the median of the completed trials then"
            )

    def _should_prune(self, epoch: int, value: float) -> bool:
        if self.trial is None:
            self.trial = self._load_trial()
        known = self.trial.study.get_trials(deepcopy=False)[self.trial_number]
        if epoch not in known.intermediate_values:  # a resumed run reports it again
            self.trial.report(value, epoch)
        return self.trial.should_prune()

    def _load_trial(self) -> optuna.trial.Trial:
        pruner = optuna.pruners.MedianPruner(
            n_startup_trials=self.settings["startup"], n_warmup_steps=self.settings["warmup"] + 1
        )
        study = load_study(self.sweep_dir, self.settings, pruner)
        frozen = study.get_trials(deepcopy=False)[self.trial_number]
        return optuna.trial.Trial(study, frozen._trial_id)
