"""Tensors of which every process holds a part: torch's DTensor, known by what it can do, as its
module takes as long to import as half of torch."""

from __future__ import annotations

from torch import Tensor


def whole(value: Tensor) -> Tensor:
    """All of it, if it is in parts; every process has to ask for it."""
    return value.full_tensor() if is_part(value) else value  # type: ignore[attr-defined]


def own(value: Tensor) -> Tensor:
    """This process's part; the tensor itself, if it isn't in parts."""
    return value.to_local() if is_part(value) else value  # type: ignore[attr-defined]


def as_in(value: Tensor, model: Tensor) -> Tensor:
    """A whole tensor, which every process has, in parts as `model` is, if it is and has the same
    shape."""
    if not is_part(model) or is_part(value) or value.shape != model.shape:
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(model, DTensor)
    value = value.to(model.device)
    return distribute_tensor(value, model.device_mesh, model.placements, src_data_rank=None)


def is_part(value: Tensor) -> bool:
    return hasattr(value, "full_tensor")
