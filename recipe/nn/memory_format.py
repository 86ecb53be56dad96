"""How a model's weights lie in memory: channels last, where convolutions are faster for it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from recipe.errors import SpecError

ChannelsLast = bool | Literal["auto"]


CONV_CHANNEL_BLOCK = 16
"""Channels that oneDNN's convolutions take at a time: 8 with AVX2, 16 with AVX-512."""


def to_memory_format(
    model: nn.Module, device: torch.device, channels_last: ChannelsLast
) -> nn.Module:
    """The model on `device`, its 4-dimensional weights stored with the channels last if `wanted`.

    `auto` does so for a model with 2-dimensional convolutions on a CPU, where a step of the
    default model takes 0.75 of the time, and its evaluation 0.7. Inputs need not be arranged: the
    first convolution hands its outputs on as its weights lie. Sums are formed in another order, so
    the last bits of results differ from those of the ordinary layout.

    A model for which that isn't safe stays as it is under `auto`; raises SpecError under True.
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
    """A layer that torch doesn't compute well in this layout on a CPU, and what would happen."""
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
