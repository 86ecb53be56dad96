"""Optuna's study of a search: what is tried next, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipe.errors import SpecError
from recipe.store import sweep_record
from recipe.sweep import search_storage
from recipe.sweep.search import dimension
from recipe.sweep.search.dimension import Dimension

if TYPE_CHECKING:
    import optuna

TrialParams = Mapping[str, Any]
"""A value for the key of each dimension."""


class SweepStudy:
    """Named after its sweep. Everything in the sweep's own process."""

    def __init__(self, study: optuna.Study, dimensions: Sequence[Dimension]) -> None:
        self._study = study
        self.distributions = {d.key: d.to_distribution() for d in dimensions}

    @classmethod
    def load_or_create(cls, sweep_dir: Path) -> SweepStudy:
        """The study of a sweep, made if it is a new one; in its storage, which is made as well.

        Raises SpecError if that can't be reached, or the study of a sweep that goes on isn't there.
        """
        import optuna

        from recipe.compare.metric_unit import MetricUnit  # workers import this file, and not that

        about = sweep_record.read_record(sweep_dir)
        requested = about["search"]
        there = search_storage.open_storage(
            search_storage.resolve_address(requested["storage"], sweep_dir.parent.parent)
        )
        known = len(set(about["trials"]))
        more = MetricUnit(requested["metric"]).direction > 0
        study = optuna.create_study(
            study_name=search_storage.get_study_name(sweep_dir),
            storage=there,
            direction="maximize" if more else "minimize",
            load_if_exists=True,
        )
        drawn = len(study.get_trials(deepcopy=False))
        if drawn < known:
            raise SpecError(
                f"search: of the {known} trials of {sweep_dir.name} its storage has {drawn}; "
                "restore it, or start from scratch with again=true"
            )
        study.sampler = search_storage.make_sampler(
            requested["sampler"], requested["startup"], drawn
        )
        return cls(study, dimension.load_dimensions(about))

    @property
    def trials(self) -> list[optuna.trial.FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def ask(self) -> tuple[int, TrialParams]:
        """The next trial: its number, from 0, and what it tries."""
        trial = self._study.ask(self.distributions)
        return trial.number, trial.params

    def complete_trial(
        self, number: int, values: Sequence[float], epoch_values: Sequence[float]
    ) -> None:
        """A trial's value over its seeds; `curve` has the metric of the first seed's run after
        each epoch, as far as the run itself didn't report it."""
        import optuna

        known = self.trials[number]
        trial = optuna.trial.Trial(self._study, known._trial_id)
        for epoch, value in enumerate(epoch_values, 1):
            if epoch not in known.intermediate_values:
                trial.report(value, epoch)
        trial.set_user_attr("values over seeds", list(values))
        self._study.tell(number, sum(values) / len(values))

    def end_trial(self, number: int, state: str) -> None:
        """A trial that has no value: PRUNED or FAIL."""
        import optuna

        self._study.tell(number, state=optuna.trial.TrialState[state])
