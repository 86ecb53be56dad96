"""Hydra's launcher of a sweep's jobs: several at a time, in processes that stay."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, open_dict
from rich.console import Console

from recipe import dead
from recipe.sweep import jobs, parent
from recipe.sweep.crew import Crew
from recipe.sweep.job import name_of
from recipe.sweep.jobs import Ended
from recipe.wording import counted


class Workers(BasicLauncher):  # type: ignore[misc]
    """Where there is room for one process only, the jobs are run in this one."""

    def __init__(self, workers: int | Literal["auto"]) -> None:
        super().__init__()
        self.workers = workers

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        sweep = Path(self.config.hydra.sweep.dir).resolve()
        size, threads = self._share(sweep, job_overrides)
        if size == 1:
            done: Sequence[JobReturn] = super().launch(job_overrides, initial_job_idx)
            return done
        if not CREWS:
            CREWS.append(Crew(size, threads))
            said = f"{size} at a time, {counted(threads, 'thread')} each"
            Console(highlight=False, markup=False).print(said)
        died = _Died(sweep, dict(enumerate(map(list, job_overrides), initial_job_idx)))
        CREWS[0].run(self._composed(job_overrides, initial_job_idx), died)
        return [JobReturn(_return_value=None, status=JobStatus.COMPLETED) for _ in job_overrides]

    def _share(self, sweep: Path, job_overrides: Sequence[Sequence[str]]) -> tuple[int, int]:
        """Processes, and threads of each; the same for all jobs of a sweep, whenever it is gone on
        with, as the number of threads changes the last bits."""
        kept = parent.read(sweep).get("workers")
        if kept is None:
            first = self.hydra_context.config_loader.load_sweep_config(
                self.config, list(job_overrides[0])
            )
            kept = share(first.device, len(job_overrides), self.workers)
            parent.note(sweep, workers=kept)
        return kept[0], kept[1]

    def _composed(
        self, job_overrides: Sequence[Sequence[str]], first: int
    ) -> Iterator[tuple[int, DictConfig]]:
        """Each when a process is free for it."""
        for number, overrides in enumerate(job_overrides, first):
            config = self.hydra_context.config_loader.load_sweep_config(
                self.config, list(overrides)
            )
            with open_dict(config):
                config.hydra.job.id = config.hydra.job.num = number
            yield number, config


CREWS: list[Crew] = []
"""The one at work, which stays from round to round of a greedy ablation."""


def dismiss(console: Console) -> None:
    """Ends the processes of the sweep, and says what MLflow lacks of its runs."""
    while CREWS:
        for lacking in CREWS.pop().dismiss():
            console.print(f"MLflow did not take all of {lacking}", style="red", soft_wrap=True)


def share(device: Any, count: int, workers: int | Literal["auto"]) -> tuple[int, int]:
    """How many processes, and with how many threads each, for so many jobs on a device."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    given = device.get("threads", "auto")
    if given == "auto":
        given = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(given) if str(given).isdigit() and int(given) > 0 else None
    at_once = max(1, min(count, (cores or 1) // (threads or 1))) if _is_cpu(device) else 1
    size = at_once if workers == "auto" else workers
    return size, threads or max(1, (cores or 1) // size)


def _is_cpu(device: Any) -> bool:
    target = str(device.get("_target_", ""))
    if target == "recipe.device.auto.Auto":  # told without importing torch
        return sys.platform != "darwin" and not Path("/proc/driver/nvidia/version").exists()
    return target == "recipe.device.cpu.Cpu"


class _Died:
    """Notes a job whose process ended before it did."""

    def __init__(self, sweep: Path, overrides: Mapping[int, Sequence[str]]) -> None:
        """`overrides` by the number of the job."""
        self._sweep, self._overrides = sweep, overrides

    def __call__(self, number: int, how: str) -> None:
        overrides = self._overrides[number]
        alone = " ".join(["python -m recipe", *map(shlex.quote, overrides)])
        problem = f"its process was ended by {how}; alone: {alone}"
        Console(highlight=False, markup=False).print(problem, style="red", soft_wrap=True)
        dead.close_all(self._sweep.parent.parent)
        name = name_of(parent.read(self._sweep), number, overrides)
        jobs.note(self._sweep, Ended(number, name, "KILLED", problem=problem))


def register() -> None:
    """Lets Hydra find the launcher, by a name of the one package in which it looks for plugins."""
    plugins = Plugins.instance()
    plugins.register(Workers)
    plugins.class_name_to_class["hydra_plugins.recipe.Workers"] = Workers
