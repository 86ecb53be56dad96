"""Tensors that are sharded over processes: torch's DTensor.

Its module takes as long to import as half of torch, so it is not imported here: where a DTensor
exists, it has been imported.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class ShardedTensor(Protocol):
    """The methods of DTensor that are used here."""

    device_mesh: Any
    placements: Any

    def full_tensor(self) -> Tensor: ...

    def to_local(self) -> Tensor: ...


def gather_full_tensor(value: Tensor) -> Tensor:
    """The full tensor; every process must call this if it is sharded."""
    return value.full_tensor() if isinstance(value, ShardedTensor) else value


def get_local_shard(value: Tensor) -> Tensor:
    """This process's shard; the tensor itself if it isn't sharded."""
    return value.to_local() if isinstance(value, ShardedTensor) else value


def shard_like(value: Tensor, reference: Tensor) -> Tensor:
    """Shards a full tensor, which every process has, like a reference of the same shape.

    Returns it unchanged if the reference isn't sharded or has another shape.
    """
    if isinstance(value, ShardedTensor) or value.shape != reference.shape:
        return value
    if not isinstance(reference, ShardedTensor):
        return value
    return torch.distributed.tensor.distribute_tensor(
        value.to(reference.device), reference.device_mesh, reference.placements, src_data_rank=None
    )
