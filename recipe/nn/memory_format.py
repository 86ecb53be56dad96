"""The memory format of a model: channels last where that makes convolutions faster."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from recipe.errors import SpecError

ChannelsLast = bool | Literal["auto"]


CONV_CHANNEL_BLOCK = 16
"""oneDNN's blocks of channels: 8 with AVX2, 16 with AVX-512."""


def to_memory_format(
    model: nn.Module, device: torch.device, channels_last: ChannelsLast
) -> nn.Module:
    """Moves the model to `device`, and its 4-dimensional weights to channels last.

    `auto` does so for models with 2-dimensional convolutions on a CPU, where a step of the default
    model takes 0.75 of the time, and its evaluation 0.7. Inputs need no conversion: a convolution
    returns outputs in the format of its weights. As sums are computed in another order, the last
    bits differ from those of the default format.

    A model for which that is not safe is not converted with `auto`; with True, raises SpecError.
    """
    model = model.to(device)
    unsafe = _find_unsafe_layer(model) if device.type == "cpu" else None
    if channels_last == "auto":
        convolves = any(isinstance(module, nn.Conv2d) for module in model.modules())
        channels_last = device.type == "cpu" and convolves and unsafe is None
    if channels_last and unsafe is not None:
        raise SpecError(f"channels_last: {unsafe}; use channels_last=auto or false")
    # a module's own `to` has no type for this argument alone
    return model.to(memory_format=torch.channels_last) if channels_last else model  # type: ignore[call-overload]


def _find_unsafe_layer(model: nn.Module) -> str | None:
    """Describes a layer for which torch is incorrect in this format on a CPU, if there is one."""
    for name, module in model.named_modules():
        if (
            isinstance(module, nn.Conv2d)
            and all(size == 1 for size in module.kernel_size)
            and any(stride > 1 for stride in module.stride)
            and module.in_channels // module.groups < CONV_CHANNEL_BLOCK
        ):  # https://github.com/uxlfoundation/oneDNN/issues/6035
            return (
                f"{name} is a strided 1x1 convolution of fewer than {CONV_CHANNEL_BLOCK} "
                "channels: with the "
                "channels last its gradient comes out wrong on some CPUs, and memory is overwritten"
            )
        if isinstance(module, nn.GroupNorm):  # seen in torch 2.13
            return (
                f"{name} is a GroupNorm: with the channels last its gradient ends the process on a "
                "CPU where all layers before it are frozen"
            )
    return None
