"""Hydra's sweeper of `-m`: every combination."""

from __future__ import annotations

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from recipe.sweep.launchers import plugins
from recipe.sweep.launchers.plugins import Launching


class Every(Launching):
    """The jobs are those of Hydra's own sweeper, all checked before the first one starts."""

    def __init__(self, max_batch_size: int | None) -> None:
        self.size = max_batch_size

    def sweep(self, arguments: list[str]) -> None:
        self.folder()
        parser = OverridesParser.create(config_loader=self.config_loader)
        first = 0
        for batch in BasicSweeper.split_arguments(parser.parse_overrides(arguments), self.size):
            self.launch(batch, first)
            first += len(batch)


def register() -> None:
    plugins.register("Every", Every)
