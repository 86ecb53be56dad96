"""The CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import PositiveInt

from recipe.components.device import cpu_name, select_device, thread_count, thread_environment

if TYPE_CHECKING:
    import torch


class Cpu:
    def __init__(self, *, threads: PositiveInt | Literal["auto"]) -> None:
        self.threads = thread_count(threads)

    def environment(self) -> dict[str, str]:
        return thread_environment(self.threads)

    def select(self) -> torch.device:
        return select_device("cpu", self.threads)

    def hardware(self, device: torch.device) -> str:
        return f"{cpu_name()} ({self.threads} threads)"
