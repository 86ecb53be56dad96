"""Hydra plugins: the sweepers of grids and ablations, and what all sweepers and launchers share."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from recipe.config import compose
from recipe.config.composition_cache import CachedConfigLoader
from recipe.store import sweep_record


@runtime_checkable
class StreamingLauncher(Protocol):
    """A launcher whose worker processes persist until `close`."""

    def stream(self, jobs: Iterator[tuple[int, Sequence[str]]], max_jobs: int) -> None:
        """Runs at most `max_jobs` jobs, each a number and its overrides. Takes the next one when a
        worker is free; after StopIteration it tries again when a job has ended."""

    def close(self) -> None:
        """Ends the worker processes."""


class RecipeSweeper(Sweeper):  # type: ignore[misc]
    """A sweeper whose command line was checked and recorded in sweep.json."""

    config: DictConfig
    launcher: Launcher

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.config = config
        # jobs use the option files as they were when they were checked
        self.config_loader = CachedConfigLoader(
            hydra_context.config_loader, compose.get_composition_cache()
        )
        context = HydraContext(self.config_loader, hydra_context.callbacks)
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        sweep_dir = Path(self.config.hydra.sweep.dir).resolve()
        OmegaConf.save(self.config, sweep_dir / "multirun.yaml")
        try:
            self.launch_all(sweep_dir, arguments)
        finally:
            if isinstance(self.launcher, StreamingLauncher):
                self.launcher.close()

    @abstractmethod
    def launch_all(self, sweep_dir: Path, arguments: list[str]) -> None:
        """Runs all jobs of the sweep."""


class GridSweeper(RecipeSweeper):
    """`-m`: the jobs of Hydra's BasicSweeper, every combination of the given values."""

    def __init__(self, max_batch_size: int | None) -> None:
        self.max_batch_size = max_batch_size

    def launch_all(self, sweep_dir: Path, arguments: list[str]) -> None:
        parser = OverridesParser.create(config_loader=self.config_loader)
        overrides = parser.parse_overrides(arguments)
        first = 0
        for batch in BasicSweeper.split_arguments(overrides, self.max_batch_size):
            launch_jobs(self.launcher, batch, first)
            first += len(batch)


class AblationSweeper(RecipeSweeper):
    """`ablate`: the jobs listed in sweep.json."""

    def __init__(self, plan: str, yes: bool) -> None:
        """`plan` and `yes` were read when the command line was parsed."""

    def launch_all(self, sweep_dir: Path, arguments: list[str]) -> None:
        record = sweep_record.read_record(sweep_dir)
        jobs = [[*record["fixed"], *swept] for swept in record["planned"]]
        launch_jobs(self.launcher, jobs, 0)


def launch_jobs(launcher: Launcher, jobs: Sequence[Sequence[str]], first_number: int) -> None:
    """Runs jobs numbered from `first_number`; raises what a job raised."""
    for done in launcher.launch(jobs, initial_job_idx=first_number):
        _: Any = done.return_value  # raises it


def group_consecutive(
    jobs: Mapping[int, Sequence[str]],
) -> Iterator[tuple[int, list[Sequence[str]]]]:
    """Groups jobs with consecutive numbers, as a launcher numbers them; yields the first number of
    each group and its jobs."""
    for _, several in itertools.groupby(enumerate(sorted(jobs)), lambda pair: pair[1] - pair[0]):
        numbers = [number for _, number in several]
        yield numbers[0], [jobs[number] for number in numbers]


def register_plugin(plugin: type[Any]) -> None:
    """Registers a plugin as `hydra_plugins.recipe.<class>`: Hydra finds plugins in that package
    only."""
    plugins = Plugins.instance()
    plugins.register(plugin)
    plugins.class_name_to_class[f"hydra_plugins.recipe.{plugin.__name__}"] = plugin


def register() -> None:
    for sweeper in (GridSweeper, AblationSweeper):
        register_plugin(sweeper)
