"""The GPUs of a sweep's jobs: each process that runs jobs has a place on one of them.

A place is a file of the sweep's folder that its process holds locked for as long as it lives, so
that it is given back however the process ends.
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
from recipe.formatting import counted, written

VISIBLE, ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"

DRIVERS = ("/proc/driver/nvidia/version", "/dev/kfd", "/dev/dxg")
"""What drivers of GPUs show of themselves: NVIDIA's, AMD's, and either under Windows."""

PAUSE = 0.1
"""Seconds between two looks for a place that is free."""

LAUNCHER = ("hydra/launcher", "hydra.launcher")

AT_ONCE = ("workers", "n_jobs")
"""What launchers call the number of jobs at a time."""


@dataclass(frozen=True)
class Gpus:
    """The GPUs of a sweep, each with room for so many processes."""

    folder: Path
    """Of the sweep."""
    names: tuple[str, ...]
    """As CUDA_VISIBLE_DEVICES has them: indices, or NVIDIA's own names."""
    per_gpu: int

    @property
    def places(self) -> int:
        return len(self.names) * self.per_gpu

    @contextmanager
    def place(self) -> Iterator[str]:
        """Makes one GPU the only one that this process sees, which must not have imported torch
        yet. Waits for a place; the first on each GPU comes before the second on any."""
        places = [(name, nth) for nth in range(self.per_gpu) for name in self.names]
        (self.folder / ".gpus").mkdir(exist_ok=True)
        while True:
            for name, nth in places:
                with suppress(Timeout), self._lock(name, nth).acquire(blocking=False):
                    os.environ[VISIBLE] = name
                    os.environ.setdefault(ORDER, "PCI_BUS_ID")
                    yield name
                    return
            time.sleep(PAUSE)

    def _lock(self, name: str, nth: int) -> FileLock:
        return FileLock(
            self.folder / ".gpus" / f"{name.replace('/', '-')}.{nth}.lock", thread_local=False
        )


def of(sweep: Path, asked: Any, per_gpu: int, devices: Sequence[Mapping[str, Any]]) -> Gpus | None:
    """Those for jobs on these devices; None where they are left as they are: on the CPU, where
    nothing says which GPUs there are, and with device=gpu, which says it itself."""
    if all(map(is_cpu, devices)) or any(map(_chooses, devices)):
        return None
    given = _given()
    names = [str(each) for each in asked] if asked != "auto" else given
    names = _listed() if names is None else names
    return Gpus(sweep, tuple(names), per_gpu) if names else None


def check(overrides: Sequence[Override], first: RunSpec) -> None:
    """Raises SpecError where jobs, of which one is the first, can't go by what a command line says
    of a launcher's processes and GPUs."""
    ours = [o.input_line for o in overrides if o.key_or_group.startswith(LAUNCHER)]
    if not ours:
        return
    with compose.menu_folder():
        node: Any = compose.config(ours).hydra.launcher
    if "per_gpu" not in node:
        return
    asked, per_gpu = node["gpus"], node["per_gpu"]
    problems = Problems([*_uncounted(node), *_malformed(asked, per_gpu)])
    problems.raise_any()
    if any(o.key_or_group.startswith("device") and o.is_sweep_override() for o in overrides):
        return
    problems += _idle(asked, per_gpu, first)
    problems.raise_any()
    gpus = of(Path(), asked, per_gpu, [first.device])
    for key in AT_ONCE:
        number = node.get(key)
        if gpus and isinstance(number, int) and number > gpus.places:
            raise SpecError(
                f"hydra.launcher.{key}={number}: {counted(len(gpus.names), 'GPU')} with "
                f"{counted(per_gpu, 'job')} each have room for {gpus.places}; "
                "hydra.launcher.per_gpu says how many share one"
            )


def _uncounted(node: Mapping[str, Any]) -> Iterator[str]:
    for key in AT_ONCE:
        number = node.get(key, "auto")
        if number != "auto" and (type(number) is not int or number < 1):
            yield (
                f"hydra.launcher.{key} must be auto or a whole number of at least 1, "
                f"got {written(number)}"
            )


def _malformed(asked: Any, per_gpu: Any) -> Iterator[str]:
    if type(per_gpu) is not int or per_gpu < 1:
        yield f"hydra.launcher.per_gpu must be a whole number of at least 1, got {written(per_gpu)}"
    if asked == "auto":
        return
    indices = [None] if isinstance(asked, str) or not isinstance(asked, Sequence) else list(asked)
    if not indices or any(type(each) is not int or each < 0 for each in indices):
        yield (
            "hydra.launcher.gpus must be auto or a list of indices, such as [0,1], "
            f"got {written(asked)}"
        )
        return
    if len(set(indices)) < len(indices):
        yield (
            f"hydra.launcher.gpus names a GPU twice: {indices}; name each once, and "
            "hydra.launcher.per_gpu says how many jobs share one"
        )
    given = _given()
    known = _listed() if given is None else given
    shows = "nvidia-smi lists" if given is None else f"{VISIBLE} shows"
    for each in indices:
        if known is not None and str(each) not in known:
            yield (
                f"hydra.launcher.gpus: there is no GPU {each}, as {shows} "
                f"{', '.join(known) or 'none'}; name others, or leave it out"
            )


def _idle(asked: Any, per_gpu: int, first: RunSpec) -> Iterator[str]:
    """What would be ignored."""
    option = first.options["device"]
    if is_cpu(first.device):
        why, way = "computes on the CPU here", "leave it out"
    elif _chooses(first.device):
        why, way = "names its GPUs itself", "use device=auto, or leave it out"
    else:
        return
    if asked != "auto":
        yield f"hydra.launcher.gpus={list(asked)}: device={option} {why}; {way}"
    if per_gpu != 1:
        yield f"hydra.launcher.per_gpu={per_gpu}: device={option} {why}; {way}"


def is_cpu(device: Mapping[str, Any]) -> bool:
    target = str(device.get("_target_", ""))
    if target == "recipe.components.device.auto.Auto":  # told without importing torch
        hidden = _given() == []
        return sys.platform != "darwin" and (hidden or not any(map(os.path.exists, DRIVERS)))
    return target == "recipe.components.device.cpu.Cpu"


def _chooses(device: Mapping[str, Any]) -> bool:
    return device.get("_target_") == "recipe.components.device.gpu.Gpu"


def _given() -> list[str] | None:
    """Those that the environment shows, up to the first that is none, as CUDA reads it; None where
    it says nothing."""
    if VISIBLE not in os.environ:
        return None
    names = (name.strip() for name in os.environ[VISIBLE].split(","))
    return list(takewhile(lambda name: name not in ("", "-1"), names))


def _listed() -> list[str] | None:
    """The indices that NVIDIA's own program lists; None where there is no such program."""
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.split()
