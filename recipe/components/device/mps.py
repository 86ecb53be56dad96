"""The GPU of an Apple computer, through torch's Metal backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import PositiveInt

from recipe.components.device import (
    cpu_name,
    import_torch,
    select_device,
    thread_count,
    thread_environment,
)
from recipe.config.world_size import World

if TYPE_CHECKING:
    import torch


class Mps:
    def __init__(self, *, threads: PositiveInt | Literal["auto"]) -> None:
        self.threads = thread_count(threads)

    def environment(self) -> dict[str, str]:
        return thread_environment(self.threads)

    def select(self) -> torch.device:
        if not import_torch().backends.mps.is_available():
            raise ValueError("device=mps: this machine has no Apple GPU; use device=auto")
        if World.from_environment().size > 1:
            raise ValueError(
                "device=mps: several processes can't share an Apple GPU; use device=cpu, or one "
                "process (python -m recipe)"
            )
        return select_device("mps", self.threads)

    def hardware(self, device: torch.device) -> str:
        return f"{cpu_name()} GPU"
