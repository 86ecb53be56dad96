"""Hydra's sweeper of `-m`: every combination."""

from __future__ import annotations

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from recipe.sweep.launchers import plugins
from recipe.sweep.launchers.plugins import RecipeSweeper


class GridSweeper(RecipeSweeper):
    """The jobs are those of Hydra's own sweeper, all checked before the first one starts."""

    def __init__(self, max_batch_size: int | None) -> None:
        self.max_batch_size = max_batch_size

    def sweep(self, arguments: list[str]) -> None:
        self.prepare_sweep_dir()
        parser = OverridesParser.create(config_loader=self.config_loader)
        first = 0
        for batch in BasicSweeper.split_arguments(
            parser.parse_overrides(arguments), self.max_batch_size
        ):
            self.launch_jobs(batch, first)
            first += len(batch)


def register() -> None:
    plugins.register_plugin(GridSweeper)
