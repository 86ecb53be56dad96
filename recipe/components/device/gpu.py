"""CUDA GPUs by physical index, in an order of one's own.

CUDA reads CUDA_VISIBLE_DEVICES once, when it is initialised; setting it before torch is imported
is the only order of events that always works. CUDA_DEVICE_ORDER=PCI_BUS_ID makes the indices
those of nvidia-smi; by default CUDA counts the fastest GPU first.
Source: https://docs.nvidia.com/cuda/cuda-c-programming-guide/index.html#env-vars.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from recipe.components.device import select_cuda_device, thread_count, thread_environment

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
        """Raises ValueError for an index named twice."""
        if len(set(order)) < len(order):
            raise ValueError(f"device.order names a GPU twice: {order}; name each once")
        self.order = order
        self.threads = thread_count(threads)

    def environment(self) -> dict[str, str]:
        return {
            "CUDA_VISIBLE_DEVICES": ",".join(map(str, self.order)),
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            **thread_environment(self.threads),
        }

    def select(self) -> torch.device:
        """cuda:0, or the one of this process's number. Raises ValueError for an index that doesn't
        exist, and for fewer than there are processes."""
        import torch

        # CUDA shows the devices before the first index that doesn't exist, and none after it
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if found < len(self.order):
            raise ValueError(
                f"device.order: there is no GPU {self.order[found]} for torch {torch.__version__} "
                "on this machine (nvidia-smi lists what there is); use device=auto or other indices"
            )
        torch.set_num_threads(self.threads)
        return select_cuda_device(len(self.order), "device.order")

    def hardware(self, device: torch.device) -> str:
        import torch

        return f"{torch.cuda.get_device_name(device)} (physical GPU {self.order[device.index]})"
