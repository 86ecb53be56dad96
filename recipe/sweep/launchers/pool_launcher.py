"""The default launcher: runs several jobs at a time on this machine."""

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
from recipe.sweep import hydra_plugins
from recipe.sweep.launchers import gpu_assignment
from recipe.sweep.launchers.forkserver import TORCH_HELPER
from recipe.sweep.launchers.gpu_assignment import GpuSlots
from recipe.sweep.launchers.worker_pool import WorkerPool
from recipe.sweep.sweeper_arguments import is_hydra_override


class PoolLauncher(BasicLauncher):  # type: ignore[misc]
    """Runs jobs in worker processes, or in this process if one at a time is all there is room for.
    A `StreamingLauncher`."""

    def __init__(self, workers: int | Literal["auto"], gpus: Any, per_gpu: int) -> None:
        super().__init__()
        self.workers, self.gpus, self.per_gpu = workers, gpus, per_gpu
        self._pool: WorkerPool | None = None

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        self._run_jobs(enumerate(job_overrides, initial_job_idx), job_overrides, len(job_overrides))
        return [JobReturn(_return_value=None, status=JobStatus.COMPLETED) for _ in job_overrides]

    def stream(self, jobs: Iterator[tuple[int, Sequence[str]]], max_jobs: int) -> None:
        first = next(jobs, None)
        if first is not None:
            self._run_jobs(_ResumableIterator(first, jobs), [first[1]], max_jobs)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()

    def _run_jobs(
        self,
        jobs: Iterator[tuple[int, Sequence[str]]],
        representatives: Sequence[Sequence[str]],
        n_jobs: int,
    ) -> None:
        """`representatives`: overrides of jobs that between them have the devices of all jobs."""
        sweep = Path(self.config.hydra.sweep.dir).resolve()
        devices = self._compose_devices(representatives)
        gpus = gpu_assignment.assign_gpus(sweep, self.gpus, self.per_gpu, devices)
        size, threads, is_in_process = allocate_sweep_workers(
            sweep, devices, n_jobs, self.workers, gpus
        )
        if self._pool is None and is_in_process and self.gpus == "auto":
            for number, overrides in jobs:
                hydra_plugins.launch_jobs(super(), [overrides], number)
            return
        if self._pool is None:
            on_cpu = all(map(gpu_assignment.is_cpu_device, devices))
            self._pool = WorkerPool(size, threads, gpus, on_cpu=on_cpu)
            status = run_dirs.format_command(f"status {sweep.name}", sweep.parent.parent)
            on_gpus = f" on GPU {', '.join(gpus.device_ids)}" if gpus else ""
            message = (
                f"{size} at a time{on_gpus}, {pluralize(threads, 'thread')} each; the output of a "
                f"run is shown when it ends, and {status} shows the progress"
            )
            Console().print(message, soft_wrap=True)
        crashes = CrashRecorder(sweep)
        # not a generator, which could not resume after StopIteration
        self._pool.run_jobs(map(functools.partial(self._compose_job, crashes), jobs), crashes)

    def _compose_devices(self, job_overrides: Sequence[Sequence[str]]) -> list[DictConfig]:
        """The different devices of jobs."""
        distinct = {
            tuple(t for t in texts if t.startswith(("device", "experiment"))): texts
            for texts in job_overrides
        }
        return [self._compose_config(overrides).device for overrides in distinct.values()]

    def _compose_config(self, overrides: Sequence[str]) -> DictConfig:
        config: DictConfig = self.hydra_context.config_loader.load_sweep_config(
            self.config, list(overrides)
        )
        return config

    def _compose_job(
        self, crashes: CrashRecorder, job: tuple[int, Sequence[str]]
    ) -> tuple[int, DictConfig]:
        number, overrides = job
        crashes.overrides_by_number[number] = overrides
        config = self._compose_config(overrides)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        return number, config


class _ResumableIterator(Iterator[Any]):
    """`first`, then `rest`; may yield again after StopIteration, as `rest` may."""

    def __init__(self, first: Any, rest: Iterator[Any]) -> None:
        self._first, self._rest = [first], rest

    def __next__(self) -> Any:
        return self._first.pop() if self._first else next(self._rest)


class CrashRecorder:
    """Records a job whose process died."""

    def __init__(self, sweep_dir: Path) -> None:
        self._sweep_dir = sweep_dir
        self.overrides_by_number: dict[int, Sequence[str]] = {}

    def __call__(self, number: int, cause: str) -> None:
        overrides = self.overrides_by_number[number]
        problem = f"its process was ended by {cause}; {sweep_jobs.format_job_command(overrides)}"
        Console().print(problem, style="red", soft_wrap=True)
        stale_records.close_stale_records(self._sweep_dir.parent.parent)
        about = sweep_record.read_record(self._sweep_dir)
        name = sweep_jobs.format_job_name(about, number, overrides)
        result = JobResult(number, name, "KILLED", problem=problem)
        sweep_jobs.append_result(self._sweep_dir, result)


def prestart_helper(overrides: Sequence[Override]) -> None:
    """Starts importing torch in the processes that the sweep will probably use, while the command
    line is checked; wasted if the sweep turns out to use others."""
    keys = {o.key_or_group: o for o in overrides}
    has_launcher = any(key.startswith(gpu_assignment.LAUNCHER_PREFIXES) for key in keys)
    device = keys["device"].input_line if "device" in keys else "device=auto"
    target = {
        "device=cpu": "recipe.components.device.cpu.Cpu",
        "device=auto": "recipe.components.device.auto.Auto",
    }.get(device, "")
    if (
        "torch" in sys.modules  # then this process can check everything
        or has_launcher
        or count_available_cores() < 2
        or not gpu_assignment.is_cpu_device({"_target_": target})
    ):
        return
    threads = keys["device.threads"].value() if "device.threads" in keys else None
    TORCH_HELPER.start(threads if isinstance(threads, int) else _environment_threads() or 1)


MIN_BYTES_PER_WORKER = 2**30
"""torch and a small data set take 0.4 GB."""


class WorkerAllocation(NamedTuple):
    n_workers: int
    threads_per_worker: int
    is_in_process: bool
    """Whether one worker is enough, and the process of the sweep can do its work."""


def allocate_sweep_workers(
    sweep_dir: Path,
    devices: Sequence[Any],
    n_jobs: int,
    workers: int | Literal["auto"],
    gpu_slots: GpuSlots | None,
) -> WorkerAllocation:
    """All jobs of a sweep have the same number of threads, also when it is resumed, as results
    depend on that in their last bits."""
    stored = sweep_record.read_record(sweep_dir).get("threads")
    allocation = allocate_workers(
        devices, n_jobs, workers, stored, n_gpu_slots=gpu_slots.n_slots if gpu_slots else 1
    )
    if stored is None:
        sweep_record.update_record(sweep_dir, threads=allocation.threads_per_worker)
    return allocation


def allocate_workers(
    devices: Sequence[Any],
    n_jobs: int,
    workers: int | Literal["auto"],
    stored_threads: int | None = None,
    memory_bytes: int | None = None,
    n_gpu_slots: int = 1,
) -> WorkerAllocation:
    """The workers for jobs on these devices. `stored_threads`: the threads that the sweep started
    with; `memory_bytes`: the machine's unless given."""
    configured = _get_configured_threads(devices)
    threads = configured or stored_threads or _environment_threads()
    cores = count_available_cores()
    max_in_memory = (memory_bytes or psutil.virtual_memory().total) // MIN_BYTES_PER_WORKER
    n_slots = cores if all(map(gpu_assignment.is_cpu_device, devices)) else n_gpu_slots
    limit = min(cores // (threads or 1), max_in_memory, n_slots)
    size = max(1, min(n_jobs, limit)) if workers == "auto" else workers
    threads = threads or max(1, cores // size)
    is_in_process = size == 1 and threads == (configured or thread_count("auto"))
    return WorkerAllocation(size, threads, is_in_process)


def predict_threads(
    settings: Mapping[str, Any], devices: Sequence[Any], n_jobs: int, stored_threads: int | None
) -> int:
    """The threads of each job, from the settings of a launcher. `stored_threads`: the threads that
    the sweep started with, if it did."""
    workers = settings.get("workers")
    if workers is not None:
        gpus = gpu_assignment.assign_gpus(Path(), settings["gpus"], settings["per_gpu"], devices)
        return allocate_workers(
            devices, n_jobs, workers, stored_threads, n_gpu_slots=gpus.n_slots if gpus else 1
        ).threads_per_worker
    cpus = settings.get("cpus_per_task", settings.get("remote", {}).get("num_cpus"))
    return _get_configured_threads(devices) or (
        thread_count("auto") if cpus is None else max(1, int(cpus))
    )


def _get_configured_threads(devices: Sequence[Any]) -> int | None:
    return max((n for each in devices if isinstance(n := each.get("threads"), int)), default=None)


def _environment_threads() -> int | None:
    return thread_count("auto") if os.environ.get("OMP_NUM_THREADS") else None


LOCAL_LAUNCHERS = (
    "hydra_plugins.recipe.PoolLauncher",
    "hydra_plugins.recipe.LocalSubmititWrapper",
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
)


def is_local_launcher(overrides: Sequence[str]) -> bool:
    """Whether all jobs run on this machine, so that checks made here hold for them. Call within
    `composition_context()`."""
    config = compose.compose_config([text for text in overrides if is_hydra_override(text)])
    return config.hydra.launcher["_target_"] in LOCAL_LAUNCHERS


def register() -> None:
    hydra_plugins.register_plugin(PoolLauncher)
