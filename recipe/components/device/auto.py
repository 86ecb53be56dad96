"""A GPU if there is one, else the CPU."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from pydantic import PositiveInt

from recipe.components.device import cpu_name, select_cuda_device, thread_count, thread_environment
from recipe.config.world_size import World

if TYPE_CHECKING:
    import torch


class Auto:
    """Leaves the visible GPUs as they are and takes the first, or each process of a run its own; an
    Apple GPU next; else the CPU."""

    def __init__(self, *, threads: PositiveInt | Literal["auto"]) -> None:
        self.threads = thread_count(threads)

    def environment(self) -> dict[str, str]:
        return thread_environment(self.threads)

    def select(self) -> torch.device:
        import torch

        torch.set_num_threads(self.threads)
        if torch.cuda.is_available():
            return select_cuda_device(torch.cuda.device_count(), "device")
        alone = (
            World.from_environment().size == 1
        )  # torch can't let several processes share an Apple GPU
        return torch.device("mps" if alone and torch.backends.mps.is_available() else "cpu")

    def hardware(self, device: torch.device) -> str:
        import torch

        if device.type == "cuda":
            visible = os.environ.get("CUDA_VISIBLE_DEVICES") or str(device.index)
            own = visible.split(",")[device.index if "," in visible else 0]
            return f"{torch.cuda.get_device_name(device)} (physical GPU {own})"
        return f"{cpu_name()} ({self.threads} threads)"
