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

from recipe.components.device import count_available_cores, thread_count
from recipe.config import compose
from recipe.formatting import pluralize
from recipe.runner.console import Console
from recipe.store import run_dirs, stale_records, sweep_jobs, sweep_record
from recipe.store.sweep_jobs import JobResult
from recipe.sweep.launchers import forkserver, gpu_assignment, plugins
from recipe.sweep.launchers.gpu_assignment import GpuSlots
from recipe.sweep.launchers.worker_pool import WorkerPool


class PoolLauncher(BasicLauncher):  # type: ignore[misc]
    """Where there is room for one process only, the jobs are run in this one."""

    def __init__(self, workers: int | Literal["auto"], gpus: Any, per_gpu: int) -> None:
        super().__init__()
        self.workers, self.gpus, self.per_gpu = workers, gpus, per_gpu

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        self._run_jobs(enumerate(job_overrides, initial_job_idx), job_overrides, len(job_overrides))
        return [JobReturn(_return_value=None, status=JobStatus.COMPLETED) for _ in job_overrides]

    def stream(self, jobs: Iterator[tuple[int, Sequence[str]]], count: int) -> None:
        """Runs jobs, `count` at most, of which each is a number and its overrides. The next one is
        asked for when there is room for it; where there is none, again when another has ended."""
        first = next(jobs, None)
        if first is not None:
            self._run_jobs(_ResumableIterator(first, jobs), [first[1]], count)

    def _run_jobs(
        self,
        jobs: Iterator[tuple[int, Sequence[str]]],
        representatives: Sequence[Sequence[str]],
        count: int,
    ) -> None:
        """`alike`: the overrides of those that stand for all, where devices are looked at."""
        sweep = Path(self.config.hydra.sweep.dir).resolve()
        (size, threads, here), places, on_cpu = self._allocate_resources(
            sweep, representatives, count
        )
        if here and self.gpus == "auto" and not ACTIVE_POOLS:
            for number, overrides in jobs:
                plugins.launch_jobs(super(), [overrides], number)
            return
        if not ACTIVE_POOLS:
            ACTIVE_POOLS.append(WorkerPool(size, threads, places, on_cpu=on_cpu))
            status = run_dirs.format_command(f"status {sweep.name}", sweep.parent.parent)
            on = f" on GPU {', '.join(places.device_ids)}" if places else ""
            message = (
                f"{size} at a time{on}, {pluralize(threads, 'thread')} each; what a run says is "
                f"shown when it ends, and {status} shows how far they are"
            )
            Console().print(message, soft_wrap=True)
        died = CrashRecorder(sweep)
        # no generator, which would be over where there is nothing to do now
        ACTIVE_POOLS[0].run_jobs(
            map(functools.partial(self._compose_job, died.overrides_by_number), jobs), died
        )

    def _allocate_resources(
        self, sweep_dir: Path, job_overrides: Sequence[Sequence[str]], count: int
    ) -> tuple[WorkerAllocation, GpuSlots | None, bool]:
        """And which GPUs it has, and whether all jobs are for the CPU."""
        devices = {_select_device_overrides(overrides): overrides for overrides in job_overrides}
        composed = [self._compose_config(overrides).device for overrides in devices.values()]
        places = gpu_assignment.assign_gpus(sweep_dir, self.gpus, self.per_gpu, composed)
        made = allocate_sweep_workers(sweep_dir, composed, count, self.workers, places)
        return made, places, all(map(gpu_assignment.is_cpu_device, composed))

    def _compose_config(self, overrides: Sequence[str]) -> DictConfig:
        config: DictConfig = self.hydra_context.config_loader.load_sweep_config(
            self.config, list(overrides)
        )
        return config

    def _compose_job(
        self, overrides_by_number: dict[int, Sequence[str]], job: tuple[int, Sequence[str]]
    ) -> tuple[int, DictConfig]:
        number, overrides = job
        overrides_by_number[number] = overrides
        config = self._compose_config(overrides)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        return number, config


class _ResumableIterator(Iterator[Any]):
    """The first, and then the others; asked again after it had none, it may have one."""

    def __init__(self, first: Any, rest: Iterator[Any]) -> None:
        self._first, self._rest = [first], rest

    def __next__(self) -> Any:
        return self._first.pop() if self._first else next(self._rest)


ACTIVE_POOLS: list[WorkerPool] = []
"""The one at work, which stays from round to round of a greedy ablation."""


def close_pools() -> None:
    """Ends the processes of the sweep."""
    while ACTIVE_POOLS:
        ACTIVE_POOLS.pop().close()


def prestart_forkserver(overrides: Sequence[Override]) -> None:
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
        or count_available_cores() < 2
        or not gpu_assignment.is_cpu_device({"_target_": part.get(device, "")})
    ):
        return
    stated = keys["device.threads"].value() if "device.threads" in keys else None
    of_variable = thread_count("auto") if os.environ.get("OMP_NUM_THREADS") else None
    forkserver.start(stated if isinstance(stated, int) else of_variable or 1)


MIN_BYTES_PER_WORKER = 2**30
"""Bytes of memory that there must be for each process: torch and a small data set take 0.4 GB."""


class WorkerAllocation(NamedTuple):
    """Of a sweep in the machine."""

    n_workers: int
    """Processes."""
    threads_per_worker: int
    """Of each."""
    is_in_process: bool
    """Whether one process is enough, and this one will do."""


def allocate_sweep_workers(
    sweep_dir: Path,
    devices: Sequence[Any],
    n_jobs: int,
    workers: int | Literal["auto"],
    gpu_slots: GpuSlots | None,
) -> WorkerAllocation:
    """The threads are the same for all jobs of a sweep, whenever it is gone on with, as their
    number changes the last bits."""
    kept = sweep_record.read_record(sweep_dir).get("threads")
    made = allocate_workers(
        devices, n_jobs, workers, kept, n_gpu_slots=gpu_slots.n_slots if gpu_slots else 1
    )
    if kept is None:
        sweep_record.update_record(sweep_dir, threads=made.threads_per_worker)
    return made


def allocate_workers(
    devices: Sequence[Any],
    n_jobs: int,
    workers: int | Literal["auto"],
    stored_threads: int | None = None,
    memory_bytes: int | None = None,
    n_gpu_slots: int = 1,
) -> WorkerAllocation:
    """Of so many jobs on these devices; `kept`: the threads with which the sweep began, `memory`:
    bytes, by default all that the machine has, `places`: jobs for which GPUs have room."""
    given = [each.get("threads", "auto") for each in devices]
    stated = max((each for each in given if isinstance(each, int)), default=None)
    of_variable = thread_count("auto") if os.environ.get("OMP_NUM_THREADS") else None
    threads = stated or stored_threads or of_variable
    fit = (memory_bytes or psutil.virtual_memory().total) // MIN_BYTES_PER_WORKER
    room = (
        count_available_cores() if all(map(gpu_assignment.is_cpu_device, devices)) else n_gpu_slots
    )
    at_once = min(count_available_cores() // (threads or 1), fit, room)
    size = max(1, min(n_jobs, at_once)) if workers == "auto" else workers
    threads = threads or max(1, count_available_cores() // size)
    return WorkerAllocation(
        size, threads, size == 1 and threads == (stated or thread_count("auto"))
    )


LOCAL_LAUNCHERS = (
    "hydra_plugins.recipe.PoolLauncher",
    "hydra_plugins.recipe.LocalSubmititWrapper",
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
)
"""The launchers whose jobs run on this machine."""


def is_local_launcher(overrides: Sequence[str]) -> bool:
    """Whether all jobs run on this machine, so that what is found out here holds for them. Call
    within `menu_folder()`."""
    hydras = [text for text in overrides if text.startswith(("hydra.", "hydra/"))]
    return compose.compose_config(hydras).hydra.launcher["_target_"] in LOCAL_LAUNCHERS


def predict_threads(
    settings: Mapping[str, Any], devices: Sequence[Any], n_jobs: int, stored_threads: int | None
) -> int:
    """The threads that each of `count` jobs will have, by the settings of a launcher; `kept`: those
    with which the sweep began, if it did."""
    stated = max((n for each in devices if isinstance(n := each.get("threads"), int)), default=None)
    size = settings.get("workers")
    if size is not None:
        places = gpu_assignment.assign_gpus(Path(), settings["gpus"], settings["per_gpu"], devices)
        return allocate_workers(
            devices, n_jobs, size, stored_threads, n_gpu_slots=places.n_slots if places else 1
        ).threads_per_worker
    cpus = settings.get("cpus_per_task", settings.get("remote", {}).get("num_cpus"))
    return stated or (thread_count("auto") if cpus is None else max(1, int(cpus)))


def _select_device_overrides(overrides: Sequence[str]) -> tuple[str, ...]:
    """What may say which device a job is for."""
    return tuple(text for text in overrides if text.startswith(("device", "experiment")))


class CrashRecorder:
    """Notes a job whose process ended before it did."""

    def __init__(self, sweep_dir: Path) -> None:
        self._sweep_dir = sweep_dir
        self.overrides_by_number: dict[int, Sequence[str]] = {}
        """By the number of the job."""

    def __call__(self, number: int, cause: str) -> None:
        overrides = self.overrides_by_number[number]
        problem = f"its process was ended by {cause}; {sweep_jobs.format_job_command(overrides)}"
        Console().print(problem, style="red", soft_wrap=True)
        stale_records.close_stale_records(self._sweep_dir.parent.parent)
        name = sweep_jobs.format_job_name(
            sweep_record.read_record(self._sweep_dir), number, overrides
        )
        sweep_jobs.append_result(
            self._sweep_dir, JobResult(number, name, "KILLED", problem=problem)
        )


def register() -> None:
    plugins.register_plugin(PoolLauncher)
