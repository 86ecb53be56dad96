"""Hydra's sweeper of an ablation: launches the jobs that were planned, by whatever launcher."""

from __future__ import annotations

from recipe.store import sweep_record
from recipe.sweep.ablation import greedy
from recipe.sweep.launchers import plugins
from recipe.sweep.launchers.plugins import RecipeSweeper


class AblationSweeper(RecipeSweeper):
    """The jobs are those of sweep.json; a greedy plan adds others when it knows how those ended."""

    def __init__(self, plan: str, yes: bool) -> None:
        self.plan = plan

    def sweep(self, arguments: list[str]) -> None:
        folder = self.prepare_sweep_dir()
        if self.plan == "greedy":
            greedy.run_greedy_selection(folder, self.launch_jobs)
        else:
            about = sweep_record.read_record(folder)
            self.launch_jobs([[*about["fixed"], *swept] for swept in about["planned"]], 0)


def register() -> None:
    plugins.register_plugin(AblationSweeper)
