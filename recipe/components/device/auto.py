"""A GPU if there is one, else the CPU."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from pydantic import PositiveInt

from recipe.components.device import (
    cpu_name,
    format_gpu_name,
    import_torch,
    select_cuda_device,
    select_device,
    thread_count,
    thread_environment,
)
from recipe.config.world_size import World

if TYPE_CHECKING:
    import torch


class Auto:
    """Selects the first visible GPU (with several processes, the one with the local rank), else an
    Apple GPU, else the CPU."""

    def __init__(self, *, threads: PositiveInt | Literal["auto"]) -> None:
        self.threads = thread_count(threads)

    def environment(self) -> dict[str, str]:
        return thread_environment(self.threads)

    def select(self) -> torch.device:
        library = import_torch()
        if library.cuda.is_available():
            library.set_num_threads(self.threads)
            return select_cuda_device(library.cuda.device_count(), "device")
        # several processes can't share an Apple GPU
        is_mps = World.from_environment().size == 1 and library.backends.mps.is_available()
        return select_device("mps" if is_mps else "cpu", self.threads)

    def hardware(self, device: torch.device) -> str:
        if device.type == "cuda":
            visible = (os.environ.get("CUDA_VISIBLE_DEVICES") or str(device.index)).split(",")
            return format_gpu_name(device, visible[device.index if len(visible) > 1 else 0])
        return f"{cpu_name()} ({self.threads} threads)"
