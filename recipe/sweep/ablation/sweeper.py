"""Hydra's sweeper of an ablation: launches the jobs that were planned, by whatever launcher."""

from __future__ import annotations

from recipe.store import sweep_record
from recipe.sweep.ablation import greedy
from recipe.sweep.launchers import plugins
from recipe.sweep.launchers.plugins import Launching


class Ablation(Launching):
    """The jobs are those of sweep.json; a greedy plan adds others when it knows how those ended."""

    def __init__(self, plan: str, yes: bool) -> None:
        self.plan = plan

    def sweep(self, arguments: list[str]) -> None:
        folder = self.folder()
        if self.plan == "greedy":
            greedy.climb(folder, self.launch)
        else:
            about = sweep_record.read(folder)
            self.launch([[*about["fixed"], *swept] for swept in about["planned"]], 0)


def register() -> None:
    plugins.register("Ablation", Ablation)
