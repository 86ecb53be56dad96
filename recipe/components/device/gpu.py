"""CUDA GPUs by physical index, in a given order.

CUDA reads CUDA_VISIBLE_DEVICES once, when it is initialised; setting it is only certain to work
before torch is imported. With CUDA_DEVICE_ORDER=PCI_BUS_ID, the indices are those of nvidia-smi; by
default, CUDA lists the fastest GPU first.

Source: https://docs.nvidia.com/cuda/cuda-c-programming-guide/index.html#env-vars.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from recipe.components.device import (
    format_gpu_name,
    import_torch,
    select_cuda_device,
    thread_count,
    thread_environment,
)
from recipe.errors import SettingError

if TYPE_CHECKING:
    import torch


class Gpu:
    """With `order=[1, 0]`, physical GPU 1 is cuda:0 and physical GPU 0 is cuda:1."""

    def __init__(
        self,
        *,
        order: Annotated[list[NonNegativeInt], Field(min_length=1)],
        threads: PositiveInt | Literal["auto"],
    ) -> None:
        """Raises ValueError for a duplicate index."""
        if len(set(order)) < len(order):
            raise SettingError("device.order", "must not name a GPU twice", order, "name each once")
        self.order = order
        self.threads = thread_count(threads)

    def environment(self) -> dict[str, str]:
        return {
            "CUDA_VISIBLE_DEVICES": ",".join(map(str, self.order)),
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            **thread_environment(self.threads),
        }

    def select(self) -> torch.device:
        """Raises ValueError for an index that doesn't exist, and for fewer GPUs than processes."""
        library = import_torch()
        # CUDA ignores all indices from the first one that doesn't exist
        found = library.cuda.device_count() if library.cuda.is_available() else 0
        if found < len(self.order):
            raise ValueError(
                f"device.order: there is no GPU {self.order[found]} for torch "
                f"{library.__version__} on this machine (nvidia-smi lists the GPUs); use "
                "device=auto or other indices"
            )
        library.set_num_threads(self.threads)
        return select_cuda_device(len(self.order), "device.order")

    def hardware(self, device: torch.device) -> str:
        return format_gpu_name(device, self.order[device.index])
