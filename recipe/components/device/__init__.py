"""Device: a class, instantiated with the settings before torch is imported.

- `environment() -> dict[str, str]`: environment variables to set before torch is first imported
  (visible GPUs, number of threads, how threads wait). Must not import torch.
- `select() -> torch.device`: called after torch was imported; raises ValueError if there is none.
- `hardware(device) -> str`: the name of the hardware, for the record.
"""

from __future__ import annotations

import functools
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from recipe.config.world_size import World
from recipe.errors import SettingError, SpecError
from recipe.nn import allocator

if TYPE_CHECKING:
    import torch


def set_environment(environment: Mapping[str, str]) -> None:
    """Puts a device's variables into the environment of this process, and has it keep its memory.

    Raises ValueError if a choice of GPUs comes too late: torch reads it when it is imported.
    """
    late = [name for name, value in environment.items()
            if name.startswith("CUDA_") and os.environ.get(name) != value]  # fmt: skip
    cuda = "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized()
    if late and "torch" in sys.modules and (cuda or not World.from_environment().rank):
        # a process that was handed its spec had to import torch for that
        state = "CUDA is initialised" if cuda else "torch is imported"
        raise ValueError(
            f"device.order: {state} already in this process, so {' and '.join(late)} would come "
            "too late; choose the GPUs in a process of its own, before anything imports torch"
        )
    os.environ.update(environment)
    allocator.retain_freed_memory()


def thread_environment(threads: int) -> dict[str, str]:
    """Threads, and how idle ones wait: spinning ones slow every process on the machine."""
    return {"OMP_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": "1000"}


MAX_THREADS = 1024
"""That OMP_NUM_THREADS may ask for; OpenMP ends the process where it can't start as many."""


def thread_count(threads: int | Literal["auto"]) -> int:
    """The number given; `auto`: OMP_NUM_THREADS, else the cores this process may use, which several
    processes of a run share. They have 1 in OMP_NUM_THREADS from torchrun, so it says nothing.

    Raises SpecError for more than the cores, unless OMP_NUM_THREADS has as many, and for more than
    MAX_THREADS there.
    """
    if threads == "auto":
        return _default_thread_count(World.from_environment().local_size)
    if threads > (most := max(count_available_cores(), _read_omp_num_threads())):
        raise SettingError(
            "device.threads", f"must be at most {most}, the cores that this process may use",
            threads, f"for more on purpose, set OMP_NUM_THREADS={min(threads, MAX_THREADS)} too",
        )  # fmt: skip
    return threads


def _read_omp_num_threads() -> int:
    """OMP_NUM_THREADS; 0 if it is not set, or no number."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(given[:9]) if given.isdecimal() else 0
    if threads > MAX_THREADS:
        raise SpecError(
            f"device.threads: OMP_NUM_THREADS is {given}, and at most {MAX_THREADS} threads are "
            f"started; set it to {count_available_cores()}, the cores that this process may use"
        )
    return threads


@functools.cache
def _default_thread_count(processes: int) -> int:
    """Asked before the first run sets the variable for itself; later runs get the same answer."""
    if (given := _read_omp_num_threads()) > (processes > 1):
        return given
    return max(1, count_available_cores() // processes)


CGROUP_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def count_available_cores() -> int:
    """Those that this process may use: of a container's share as many as fit into it."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return min(count, read_cpu_quota(CGROUP_CPU_MAX) or count)


def read_cpu_quota(path: Path) -> int | None:
    """Whole cores' worth of time that a control group of Linux (version 2) has, at least one; None
    for no limit."""
    try:
        allowed, period = path.read_text(encoding="ascii").split()
        return max(1, int(allowed) // int(period))
    except (OSError, ValueError):  # there are no groups, or it says "max"
        return None


def select_cuda_device(gpus: int, key: str) -> torch.device:
    """The GPU of this process, of `gpus` that are visible: the first, or among the processes of
    this machine the one of its number. Raises ValueError, headed by `key`, if there are too few."""
    import torch

    world = World.from_environment()
    if gpus < world.local_size:
        raise ValueError(
            f"{key}: {world.local_size} processes of this machine share the run, but there are "
            f"{gpus} GPUs for them; start fewer (--nproc-per-node {gpus}), or use device=cpu"
        )
    if world.size > 1:
        torch.cuda.set_device(world.local_rank)
    return torch.device("cuda", world.local_rank)


def cpu_name() -> str:
    """The CPU's name, as the system gives it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
