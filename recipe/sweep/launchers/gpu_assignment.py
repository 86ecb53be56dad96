"""Assigns GPUs to the processes that run the jobs of a sweep.

A slot on a GPU is a file in the sweep's folder that a process holds locked for as long as it lives,
so that the slot is released however the process ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.override_parser.types import Override

from recipe.config import compose
from recipe.config.spec import RunSpec
from recipe.errors import Problems, SpecError
from recipe.formatting import format_value, pluralize

VISIBLE_DEVICES_VARIABLE, DEVICE_ORDER_VARIABLE = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"

DRIVER_PATHS = ("/proc/driver/nvidia/version", "/dev/kfd", "/dev/dxg")
"""Of the drivers of NVIDIA, AMD, and of either under Windows."""

POLL_SECONDS = 0.1

LAUNCHER_PREFIXES = ("hydra/launcher", "hydra.launcher")


@dataclass(frozen=True)
class GpuSlots:
    sweep_dir: Path
    device_ids: tuple[str, ...]
    """Entries of CUDA_VISIBLE_DEVICES: indices or UUIDs."""
    per_gpu: int

    @property
    def n_slots(self) -> int:
        return len(self.device_ids) * self.per_gpu

    @contextmanager
    def acquire_slot(self) -> Iterator[str]:
        """Waits for a free slot, and makes its GPU the only visible one of this process, which must
        not have imported torch. Fills the first slot of every GPU before the second of any."""
        slots = [(name, nth) for nth in range(self.per_gpu) for name in self.device_ids]
        (self.sweep_dir / ".gpus").mkdir(exist_ok=True)
        while True:
            for name, nth in slots:
                with suppress(Timeout), self._make_lock(name, nth).acquire(blocking=False):
                    os.environ[VISIBLE_DEVICES_VARIABLE] = name
                    os.environ.setdefault(DEVICE_ORDER_VARIABLE, "PCI_BUS_ID")
                    yield name
                    return
            time.sleep(POLL_SECONDS)

    def _make_lock(self, device_id: str, slot: int) -> FileLock:
        return FileLock(
            self.sweep_dir / ".gpus" / f"{device_id.replace('/', '-')}.{slot}.lock",
            thread_local=False,
        )


def assign_gpus(
    sweep_dir: Path, requested: Any, per_gpu: int, devices: Sequence[Mapping[str, Any]]
) -> GpuSlots | None:
    """The GPUs for jobs on these devices; None for the CPU, if the GPUs aren't known, and for
    device=gpu, which selects its GPUs."""
    if all(map(is_cpu_device, devices)) or any(map(_is_gpu_device, devices)):
        return None
    given = _read_visible_devices()
    names = [str(each) for each in requested] if requested != "auto" else given
    names = _query_nvidia_smi() if names is None else names
    return GpuSlots(sweep_dir, tuple(names), per_gpu) if names else None


def check_launcher_gpus(overrides: Sequence[Override], first_spec: RunSpec) -> None:
    """Raises SpecError if the launcher's settings of workers and GPUs are wrong, or would be
    ignored by the jobs, of which the first is given."""
    texts = [o.input_line for o in overrides if o.key_or_group.startswith(LAUNCHER_PREFIXES)]
    if not texts:
        return
    with compose.composition_context():
        node: Any = compose.compose_config(texts).hydra.launcher
    if "per_gpu" not in node:
        return
    requested, per_gpu = node["gpus"], node["per_gpu"]
    problems = Problems(_find_worker_problems(node.get("workers", "auto")))
    problems += _find_gpu_problems(requested, per_gpu)
    problems.raise_if_any()
    if any(o.key_or_group.startswith("device") and o.is_sweep_override() for o in overrides):
        return
    problems += _find_ignored_settings(requested, per_gpu, first_spec)
    problems.raise_if_any()
    gpus = assign_gpus(Path(), requested, per_gpu, [first_spec.device])
    workers = node.get("workers")
    if gpus and isinstance(workers, int) and workers > gpus.n_slots:
        raise SpecError(
            f"hydra.launcher.workers={workers}: {pluralize(len(gpus.device_ids), 'GPU')} with "
            f"{pluralize(per_gpu, 'job')} each have room for {gpus.n_slots}; "
            "hydra.launcher.per_gpu is the number of jobs that share one"
        )


def _find_worker_problems(workers: Any) -> Iterator[str]:
    if workers != "auto" and (type(workers) is not int or workers < 1):
        yield (
            "hydra.launcher.workers must be auto or a whole number of at least 1, "
            f"got {format_value(workers)}"
        )


def _find_gpu_problems(requested: Any, per_gpu: Any) -> Iterator[str]:
    if type(per_gpu) is not int or per_gpu < 1:
        yield (
            "hydra.launcher.per_gpu must be a whole number of at least 1, got "
            f"{format_value(per_gpu)}"
        )
    if requested == "auto":
        return
    is_list = isinstance(requested, Sequence) and not isinstance(requested, str)
    if not is_list or not requested or any(type(i) is not int or i < 0 for i in requested):
        yield (
            "hydra.launcher.gpus must be auto or a list of indices, such as [0,1], "
            f"got {format_value(requested)}"
        )
        return
    if len(set(requested)) < len(requested):
        yield (
            f"hydra.launcher.gpus names a GPU twice: {list(requested)}; name each once, and "
            "hydra.launcher.per_gpu is the number of jobs that share one"
        )
    visible = _read_visible_devices()
    known = _query_nvidia_smi() if visible is None else visible
    shows = "nvidia-smi lists" if visible is None else f"{VISIBLE_DEVICES_VARIABLE} shows"
    for index in requested:
        if known is not None and str(index) not in known:
            yield (
                f"hydra.launcher.gpus: there is no GPU {index}, as {shows} "
                f"{', '.join(known) or 'none'}; name others, or leave it out"
            )


def _find_ignored_settings(requested: Any, per_gpu: int, first_spec: RunSpec) -> Iterator[str]:
    option = first_spec.options["device"]
    if is_cpu_device(first_spec.device):
        why, way = "computes on the CPU here", "leave it out"
    elif _is_gpu_device(first_spec.device):
        why, way = "names its GPUs itself", "use device=auto, or leave it out"
    else:
        return
    if requested != "auto":
        yield f"hydra.launcher.gpus={list(requested)}: device={option} {why}; {way}"
    if per_gpu != 1:
        yield f"hydra.launcher.per_gpu={per_gpu}: device={option} {why}; {way}"


def is_cpu_device(device: Mapping[str, Any]) -> bool:
    target = str(device.get("_target_", ""))
    if target == "recipe.components.device.auto.Auto":  # found out without importing torch
        hidden = _read_visible_devices() == []
        return sys.platform != "darwin" and (hidden or not any(map(os.path.exists, DRIVER_PATHS)))
    return target == "recipe.components.device.cpu.Cpu"


def _is_gpu_device(device: Mapping[str, Any]) -> bool:
    return device.get("_target_") == "recipe.components.device.gpu.Gpu"


def _read_visible_devices() -> list[str] | None:
    """CUDA_VISIBLE_DEVICES up to the first invalid entry, as CUDA reads it; None if not set."""
    if VISIBLE_DEVICES_VARIABLE not in os.environ:
        return None
    names = (name.strip() for name in os.environ[VISIBLE_DEVICES_VARIABLE].split(","))
    return list(takewhile(lambda name: name not in ("", "-1"), names))


def _query_nvidia_smi() -> list[str] | None:
    """The indices of the GPUs; None without nvidia-smi."""
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.split()
