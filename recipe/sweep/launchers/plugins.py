"""What sweepers and launchers of ours have alike: jobs are handed to a launcher of Hydra's."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from recipe.config import compose
from recipe.config.composition_cache import CachedConfigLoader


class RecipeSweeper(Sweeper):  # type: ignore[misc]
    """A sweeper whose jobs stand in sweep.json, where what was typed was checked."""

    config: DictConfig
    launcher: Launcher

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.config = config
        # what was checked is what is launched, whatever became of the files since
        self.config_loader = CachedConfigLoader(
            hydra_context.config_loader, compose.get_composition_cache()
        )
        context = HydraContext(self.config_loader, hydra_context.callbacks)
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=task_function, config=config
        )

    def prepare_sweep_dir(self) -> Path:
        """The sweep's, in which what Hydra composed is kept from now on."""
        found = Path(self.config.hydra.sweep.dir).resolve()
        OmegaConf.save(self.config, found / "multirun.yaml")
        return found

    def launch_jobs(self, jobs: Sequence[Sequence[str]], first_number: int) -> None:
        launch_jobs(self.launcher, jobs, first_number)


def launch_jobs(launcher: Launcher, jobs: Sequence[Sequence[str]], first_number: int) -> None:
    """Runs jobs of which the first has that number; raises what a job raised."""
    for done in launcher.launch(jobs, initial_job_idx=first_number):
        _: Any = done.return_value  # raises it


def group_consecutive(
    jobs: Mapping[int, Sequence[str]],
) -> Iterator[tuple[int, list[Sequence[str]]]]:
    """The jobs whose numbers follow each other, as launchers number them, and the first number."""
    for _, several in itertools.groupby(enumerate(sorted(jobs)), lambda pair: pair[1] - pair[0]):
        numbers = [number for _, number in several]
        yield numbers[0], [jobs[number] for number in numbers]


def register_plugin(plugin: type[Any]) -> None:
    """Makes a plugin known to Hydra as `hydra_plugins.recipe.<class>`: Hydra looks for plugins in
    that package alone."""
    plugins = Plugins.instance()
    plugins.register(plugin)
    plugins.class_name_to_class[f"hydra_plugins.recipe.{plugin.__name__}"] = plugin
