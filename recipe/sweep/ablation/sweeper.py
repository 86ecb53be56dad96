"""Hydra's sweeper of an ablation: launches the jobs that were planned, by whatever launcher."""

from __future__ import annotations

from recipe.store import sweep_record
from recipe.sweep.launchers import plugins
from recipe.sweep.launchers.plugins import RecipeSweeper


class AblationSweeper(RecipeSweeper):
    """Runs the jobs that sweep.json lists, where the plan is already expanded."""

    def __init__(self, plan: str, yes: bool) -> None:
        """`plan` and `yes` were read when the command line was parsed."""

    def sweep(self, arguments: list[str]) -> None:
        folder = self.prepare_sweep_dir()
        record = sweep_record.read_record(folder)
        self.launch_jobs([[*record["fixed"], *swept] for swept in record["planned"]], 0)


def register() -> None:
    plugins.register_plugin(AblationSweeper)
