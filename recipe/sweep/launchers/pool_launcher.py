"""Hydra's launcher of a sweep's jobs: several at a time, in processes that stay."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import psutil
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, open_dict

from recipe.components.device import cores, thread_count
from recipe.config import compose
from recipe.formatting import counted
from recipe.runner.console import Console
from recipe.store import run_dirs, stale_records, sweep_jobs, sweep_record
from recipe.store.sweep_jobs import Ended
from recipe.sweep.launchers import forkserver, gpu_assignment, plugins
from recipe.sweep.launchers.gpu_assignment import Gpus
from recipe.sweep.launchers.worker_pool import Crew


class Workers(BasicLauncher):  # type: ignore[misc]
    """Where there is room for one process only, the jobs are run in this one."""

    def __init__(self, workers: int | Literal["auto"], gpus: Any, per_gpu: int) -> None:
        super().__init__()
        self.workers, self.gpus, self.per_gpu = workers, gpus, per_gpu

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        self._run(enumerate(job_overrides, initial_job_idx), job_overrides, len(job_overrides))
        return [JobReturn(_return_value=None, status=JobStatus.COMPLETED) for _ in job_overrides]

    def stream(self, jobs: Iterator[tuple[int, Sequence[str]]], count: int) -> None:
        """Runs jobs, `count` at most, of which each is a number and its overrides. The next one is
        asked for when there is room for it; where there is none, again when another has ended."""
        first = next(jobs, None)
        if first is not None:
            self._run(_Again(first, jobs), [first[1]], count)

    def _run(
        self,
        jobs: Iterator[tuple[int, Sequence[str]]],
        alike: Sequence[Sequence[str]],
        count: int,
    ) -> None:
        """`alike`: the overrides of those that stand for all, where devices are looked at."""
        sweep = Path(self.config.hydra.sweep.dir).resolve()
        (size, threads, here), places, on_cpu = self._share(sweep, alike, count)
        if here and self.gpus == "auto" and not CREWS:
            for number, overrides in jobs:
                plugins.launch(super(), [overrides], number)
            return
        if not CREWS:
            CREWS.append(Crew(size, threads, places, on_cpu=on_cpu))
            status = run_dirs.command(f"status {sweep.name}", sweep.parent.parent)
            on = f" on GPU {', '.join(places.names)}" if places else ""
            said = (
                f"{size} at a time{on}, {counted(threads, 'thread')} each; what a run says is "
                f"shown when it ends, and {status} shows how far they are"
            )
            Console().print(said, soft_wrap=True)
        died = Died(sweep)
        # no generator, which would be over where there is nothing to do now
        CREWS[0].run(map(functools.partial(self._composed, died.overrides), jobs), died)

    def _share(
        self, sweep: Path, job_overrides: Sequence[Sequence[str]], count: int
    ) -> tuple[Share, Gpus | None, bool]:
        """And which GPUs it has, and whether all jobs are for the CPU."""
        devices = {_device_words(overrides): overrides for overrides in job_overrides}
        composed = [self._config(overrides).device for overrides in devices.values()]
        places = gpu_assignment.of(sweep, self.gpus, self.per_gpu, composed)
        made = kept_share(sweep, composed, count, self.workers, places)
        return made, places, all(map(gpu_assignment.is_cpu, composed))

    def _config(self, overrides: Sequence[str]) -> DictConfig:
        config: DictConfig = self.hydra_context.config_loader.load_sweep_config(
            self.config, list(overrides)
        )
        return config

    def _composed(
        self, known: dict[int, Sequence[str]], job: tuple[int, Sequence[str]]
    ) -> tuple[int, DictConfig]:
        number, overrides = job
        known[number] = overrides
        config = self._config(overrides)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        return number, config


class _Again(Iterator[Any]):
    """The first, and then the others; asked again after it had none, it may have one."""

    def __init__(self, first: Any, others: Iterator[Any]) -> None:
        self._first, self._others = [first], others

    def __next__(self) -> Any:
        return self._first.pop() if self._first else next(self._others)


CREWS: list[Crew] = []
"""The one at work, which stays from round to round of a greedy ablation."""


def dismiss(console: Console) -> None:
    """Ends the processes of the sweep, and says what MLflow lacks of its runs."""
    while CREWS:
        for lacking in CREWS.pop().dismiss():
            console.print(f"MLflow did not take all of {lacking}", style="red", soft_wrap=True)


def foresee(overrides: Sequence[Override]) -> None:
    """Lets the processes that the sweep of a command line will probably want import what they need
    meanwhile; if it wants others, that was in vain."""
    keys = {o.key_or_group: o for o in overrides}
    chosen = any(key.startswith(("hydra/launcher", "hydra.launcher")) for key in keys)
    device = keys["device"].input_line if "device" in keys else "device=auto"
    part = {
        "device=cpu": "recipe.components.device.cpu.Cpu",
        "device=auto": "recipe.components.device.auto.Auto",
    }
    here = "torch" in sys.modules  # then this process can check all
    if (
        here
        or chosen
        or cores() < 2
        or not gpu_assignment.is_cpu({"_target_": part.get(device, "")})
    ):
        return
    stated = keys["device.threads"].value() if "device.threads" in keys else None
    of_variable = thread_count("auto") if os.environ.get("OMP_NUM_THREADS") else None
    forkserver.begin(stated if isinstance(stated, int) else of_variable or 1)


EACH = 2**30
"""Bytes of memory that there must be for each process: torch and a small data set take 0.4 GB."""


class Share(NamedTuple):
    """Of a sweep in the machine."""

    size: int
    """Processes."""
    threads: int
    """Of each."""
    here: bool
    """Whether one process is enough, and this one will do."""


def kept_share(
    sweep: Path,
    devices: Sequence[Any],
    count: int,
    workers: int | Literal["auto"],
    places: Gpus | None,
) -> Share:
    """The threads are the same for all jobs of a sweep, whenever it is gone on with, as their
    number changes the last bits."""
    kept = sweep_record.read(sweep).get("threads")
    made = share(devices, count, workers, kept, places=places.places if places else 1)
    if kept is None:
        sweep_record.note(sweep, threads=made.threads)
    return made


def share(
    devices: Sequence[Any],
    count: int,
    workers: int | Literal["auto"],
    kept: int | None = None,
    memory: int | None = None,
    places: int = 1,
) -> Share:
    """Of so many jobs on these devices; `kept`: the threads with which the sweep began, `memory`:
    bytes, by default all that the machine has, `places`: jobs for which GPUs have room."""
    given = [each.get("threads", "auto") for each in devices]
    stated = max((each for each in given if isinstance(each, int)), default=None)
    of_variable = thread_count("auto") if os.environ.get("OMP_NUM_THREADS") else None
    threads = stated or kept or of_variable
    fit = (memory or psutil.virtual_memory().total) // EACH
    room = cores() if all(map(gpu_assignment.is_cpu, devices)) else places
    at_once = min(cores() // (threads or 1), fit, room)
    size = max(1, min(count, at_once)) if workers == "auto" else workers
    threads = threads or max(1, cores() // size)
    return Share(size, threads, size == 1 and threads == (stated or thread_count("auto")))


LOCAL = (
    "hydra_plugins.recipe.Workers",
    "hydra_plugins.recipe.Joblib",
    "hydra_plugins.recipe.Local",
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
)
"""The launchers whose jobs run on this machine."""


def is_local(overrides: Sequence[str]) -> bool:
    """Whether all jobs run on this machine, so that what is found out here holds for them. Call
    within `menu_folder()`."""
    hydras = [text for text in overrides if text.startswith(("hydra.", "hydra/"))]
    return compose.config(hydras).hydra.launcher["_target_"] in LOCAL


def planned_threads(
    settings: Mapping[str, Any], devices: Sequence[Any], count: int, kept: int | None
) -> int:
    """The threads that each of `count` jobs will have, by the settings of a launcher; `kept`: those
    with which the sweep began, if it did."""
    stated = max((n for each in devices if isinstance(n := each.get("threads"), int)), default=None)
    size = settings.get("workers", settings.get("n_jobs"))
    if size is not None:
        places = gpu_assignment.of(Path(), settings["gpus"], settings["per_gpu"], devices)
        return share(devices, count, size, kept, places=places.places if places else 1).threads
    cpus = settings.get("cpus_per_task", settings.get("remote", {}).get("num_cpus"))
    return stated or (thread_count("auto") if cpus is None else max(1, int(cpus)))


def _device_words(overrides: Sequence[str]) -> tuple[str, ...]:
    """What may say which device a job is for."""
    return tuple(text for text in overrides if text.startswith(("device", "experiment")))


class Died:
    """Notes a job whose process ended before it did."""

    def __init__(self, sweep: Path) -> None:
        self._sweep = sweep
        self.overrides: dict[int, Sequence[str]] = {}
        """By the number of the job."""

    def __call__(self, number: int, how: str) -> None:
        overrides = self.overrides[number]
        problem = f"its process was ended by {how}; {sweep_jobs.alone(overrides)}"
        Console().print(problem, style="red", soft_wrap=True)
        stale_records.close_all(self._sweep.parent.parent)
        name = sweep_jobs.name_of(sweep_record.read(self._sweep), number, overrides)
        sweep_jobs.note(self._sweep, Ended(number, name, "KILLED", problem=problem))


def register() -> None:
    plugins.register("Workers", Workers)
