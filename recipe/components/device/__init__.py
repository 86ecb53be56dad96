"""Device: a class, instantiated with the settings before torch is imported.

- `environment() -> dict[str, str]`: environment variables to set before torch is first imported
  (visible GPUs, number of threads, how idle threads wait). Must not import torch.
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
from typing import TYPE_CHECKING, Any, Literal

from recipe.config.world_size import World
from recipe.errors import SettingError, SpecError
from recipe.nn import allocator

if TYPE_CHECKING:
    import torch


def set_environment(environment: Mapping[str, str]) -> None:
    """Sets a device's environment variables in this process, which then retains freed memory.

    Raises ValueError if a choice of GPUs comes too late: torch reads it when it is imported.
    """
    late = [name for name, value in environment.items()
            if name.startswith("CUDA_") and os.environ.get(name) != value]  # fmt: skip
    cuda = "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized()
    if late and "torch" in sys.modules and (cuda or not World.from_environment().rank):
        # a rank above 0 has imported torch to receive its spec
        state = "CUDA is initialised" if cuda else "torch is imported"
        raise ValueError(
            f"device.order: {state} already in this process, so {' and '.join(late)} would have "
            "no effect; choose the GPUs in a new process, before anything imports torch"
        )
    os.environ.update(environment)
    allocator.retain_freed_memory()


def thread_environment(threads: int) -> dict[str, str]:
    """Sets the number of threads, and lets idle ones sleep, as spinning slows all processes."""
    return {"OMP_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": "1000"}


MAX_THREADS = 1024  # OpenMP ends a process in which it can't start all threads


def thread_count(threads: int | Literal["auto"]) -> int:
    """Returns the given number; for `auto`, OMP_NUM_THREADS or else the number of available cores.

    The processes of a run on this machine share the cores. For them, OMP_NUM_THREADS=1 is ignored,
    as torchrun always sets it. Raises SpecError for more threads than cores, unless OMP_NUM_THREADS
    is as high, and for more than MAX_THREADS in OMP_NUM_THREADS.
    """
    if threads == "auto":
        return _default_thread_count(World.from_environment().local_size)
    if threads > (most := max(count_available_cores(), _read_omp_num_threads())):
        raise SettingError(
            "device.threads", f"must be at most {most}, the number of cores available",
            threads, f"to use more, also set OMP_NUM_THREADS={min(threads, MAX_THREADS)}",
        )  # fmt: skip
    return threads


def _read_omp_num_threads() -> int:
    """Returns OMP_NUM_THREADS; 0 if it is not set or not a number."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(given[:9]) if given.isdecimal() else 0
    if threads > MAX_THREADS:
        raise SpecError(
            f"device.threads: OMP_NUM_THREADS is {given}, and at most {MAX_THREADS} threads can "
            f"be started; set it to {count_available_cores()}, the number of cores available"
        )
    return threads


@functools.cache
def _default_thread_count(processes: int) -> int:
    """Cached, as the first run of a process sets the variable itself."""
    if (given := _read_omp_num_threads()) > (processes > 1):
        return given
    return max(1, count_available_cores() // processes)


CGROUP_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def count_available_cores() -> int:
    """Counts the cores that this process may use, within the CPU quota of its container."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return min(count, read_cpu_quota(CGROUP_CPU_MAX) or count)


def read_cpu_quota(path: Path) -> int | None:
    """Returns the CPU quota of a Linux control group (version 2) in cores, rounded down but at
    least 1; None without a limit."""
    try:
        allowed, period = path.read_text(encoding="ascii").split()
        return max(1, int(allowed) // int(period))
    except (OSError, ValueError):  # no control groups, or a quota of "max"
        return None


def import_torch() -> Any:
    """Returns torch, which must not be imported before the environment variables are set."""
    import torch

    return torch


def select_cuda_device(gpus: int, key: str) -> torch.device:
    """Returns the visible GPU with the local rank of this process, of `gpus`.

    Raises ValueError, which begins with `key`, if there are fewer GPUs than processes.
    """
    world = World.from_environment()
    if gpus < world.local_size:
        raise ValueError(
            f"{key}: {world.local_size} processes on this machine share the run, but only "
            f"{gpus} GPUs; start fewer (--nproc-per-node {gpus}), or use device=cpu"
        )
    if world.size > 1:
        import_torch().cuda.set_device(world.local_rank)
    device: torch.device = import_torch().device("cuda", world.local_rank)
    return device


def select_device(kind: str, threads: int) -> torch.device:
    """Returns the only device of a kind, and sets torch's number of threads."""
    import_torch().set_num_threads(threads)
    device: torch.device = import_torch().device(kind)
    return device


def format_gpu_name(device: torch.device, physical_index: int | str) -> str:
    return f"{import_torch().cuda.get_device_name(device)} (physical GPU {physical_index})"


def cpu_name() -> str:
    """Returns the name of the CPU model."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
