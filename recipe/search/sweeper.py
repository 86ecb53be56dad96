"""Hydra's sweeper of a search: hands its jobs to whatever launcher, as it has room for them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from recipe.search.study import Study
from recipe.search.trials import Trials
from recipe.sweep import parent


class Search(Sweeper):  # type: ignore[misc]
    """A launcher that has a `stream` is given a job whenever it asks for one; another one so many
    at a time."""

    def __init__(self, batch: int, **asked: Any) -> None:
        """What is asked for stands in sweep.json, checked; `batch` are the jobs at a time."""
        self.batch = batch
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """What was typed is in sweep.json already."""
        assert self.config is not None and self.launcher is not None
        folder = Path(self.config.hydra.sweep.dir).resolve()
        OmegaConf.save(self.config, folder / "multirun.yaml")
        trials = Trials(folder, Study.begun(folder))
        if hasattr(self.launcher, "stream"):
            self.launcher.stream(trials, parent.read(folder)["jobs"])
        else:
            # Hydra loads its own plugins under names of their own
            alone = type(self.launcher).__name__ == "BasicLauncher"
            size = 1 if alone else self.batch
            while batch := sorted(itertools.islice(trials, size)):
                for first, jobs in _in_a_row(batch):
                    self._launch(jobs, first)
        trials.hear()

    def _launch(self, jobs: Sequence[Sequence[str]], first: int) -> None:
        assert self.launcher is not None
        for done in self.launcher.launch(jobs, initial_job_idx=first):
            _: Any = done.return_value  # raises what the job raised


def _in_a_row(
    jobs: Sequence[tuple[int, Sequence[str]]],
) -> Iterator[tuple[int, list[Sequence[str]]]]:
    """The jobs whose numbers follow each other, as launchers number them, and the first number."""
    for _, several in itertools.groupby(enumerate(jobs), lambda pair: pair[1][0] - pair[0]):
        found = [job for _, job in several]
        yield found[0][0], [overrides for _, overrides in found]


def register() -> None:
    """Lets Hydra find the sweeper, by a name of the one package in which it looks for plugins."""
    plugins = Plugins.instance()
    plugins.register(Search)
    plugins.class_name_to_class["hydra_plugins.recipe.Search"] = Search
