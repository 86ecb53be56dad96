"""A GPU if there is one, else the CPU."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from pydantic import PositiveInt

from recipe.device import processor, thread_count, thread_environment

if TYPE_CHECKING:
    import torch


class Auto:
    """Leaves the visible GPUs as they are and takes the first; an Apple GPU next; else the CPU."""

    def __init__(self, *, threads: PositiveInt | Literal["auto"]) -> None:
        self.threads = thread_count(threads)

    def environment(self) -> dict[str, str]:
        return thread_environment(self.threads)

    def select(self) -> torch.device:
        import torch

        torch.set_num_threads(self.threads)
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")

    def hardware(self, device: torch.device) -> str:
        import torch

        if device.type == "cuda":
            first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
            return f"{torch.cuda.get_device_name(device)} (physical GPU {first})"
        return f"{processor()} ({self.threads} threads)"
