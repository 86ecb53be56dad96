"""Tensors of which every process holds a part: torch's DTensor, known by what it can do, as its
module takes as long to import as half of torch."""

from __future__ import annotations

from torch import Tensor


def gather_full_tensor(value: Tensor) -> Tensor:
    """All of it, if it is in parts; every process has to ask for it."""
    return value.full_tensor() if is_sharded(value) else value  # type: ignore[attr-defined]


def get_local_shard(value: Tensor) -> Tensor:
    """This process's part; the tensor itself, if it isn't in parts."""
    return value.to_local() if is_sharded(value) else value  # type: ignore[attr-defined]


def shard_like(value: Tensor, reference: Tensor) -> Tensor:
    """A whole tensor, which every process has, in parts as `model` is, if it is and has the same
    shape."""
    if not is_sharded(reference) or is_sharded(value) or value.shape != reference.shape:
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(reference, DTensor)
    value = value.to(reference.device)
    return distribute_tensor(value, reference.device_mesh, reference.placements, src_data_rank=None)


def is_sharded(value: Tensor) -> bool:
    return hasattr(value, "full_tensor")
