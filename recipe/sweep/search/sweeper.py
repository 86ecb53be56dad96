"""Hydra's sweeper of a search: hands its jobs to whatever launcher, as it has room for them."""

from __future__ import annotations

import itertools
from typing import Any

from recipe.store import sweep_record
from recipe.sweep.launchers import plugins
from recipe.sweep.launchers.plugins import RecipeSweeper
from recipe.sweep.search.study import SweepStudy
from recipe.sweep.search.trial_jobs import TrialJobIterator


class SearchSweeper(RecipeSweeper):
    """A launcher that has a `stream` is given a job whenever it asks for one; another one so many
    at a time."""

    def __init__(self, batch: int, **settings: Any) -> None:
        """What is asked for stands in sweep.json, checked; `batch` are the jobs at a time."""
        self.batch = batch

    def sweep(self, arguments: list[str]) -> None:
        folder = self.prepare_sweep_dir()
        trials = TrialJobIterator(folder, SweepStudy.load_or_create(folder))
        if hasattr(self.launcher, "stream"):
            self.launcher.stream(trials, sweep_record.read_record(folder)["jobs"])
        else:
            # Hydra loads its own plugins under names of their own
            alone = type(self.launcher).__name__ == "BasicLauncher"
            size = 1 if alone else self.batch
            while batch := dict(itertools.islice(trials, size)):
                for first, jobs in plugins.group_consecutive(batch):
                    self.launch_jobs(jobs, first)
        trials.read_ended_jobs()


def register() -> None:
    plugins.register_plugin(SearchSweeper)
