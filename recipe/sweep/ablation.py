"""Hydra's sweeper of an ablation: launches the jobs that were planned, by whatever launcher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from recipe.sweep import greedy, parent


class Ablation(Sweeper):  # type: ignore[misc]
    """The jobs are those of sweep.json; a greedy plan adds others when it knows how those ended."""

    def __init__(self, plan: str, yes: bool) -> None:
        self.plan = plan
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
        """What was typed is in sweep.json already, job by job."""
        assert self.config is not None
        folder = Path(self.config.hydra.sweep.dir).resolve()
        OmegaConf.save(self.config, folder / "multirun.yaml")
        if self.plan == "greedy":
            greedy.climb(folder, self._launch)
        else:
            about = parent.read(folder)
            self._launch([[*about["fixed"], *swept] for swept in about["planned"]], 0)

    def _launch(self, jobs: Sequence[Sequence[str]], first: int) -> None:
        assert self.launcher is not None
        for done in self.launcher.launch(jobs, initial_job_idx=first):
            _: Any = done.return_value  # raises what the job raised


def register() -> None:
    """Lets Hydra find the sweeper, by a name of the one package in which it looks for plugins."""
    plugins = Plugins.instance()
    plugins.register(Ablation)
    plugins.class_name_to_class["hydra_plugins.recipe.Ablation"] = Ablation
