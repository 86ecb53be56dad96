"""Pretrained weights of a model's library, and the images that they were trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class InputFormat:
    """The format of the images that weights were trained on."""

    size: int
    """Height and width, in pixels."""
    mean: Sequence[float]
    """Per channel, where black is 0 and white is 1."""
    std: Sequence[float]

    def __str__(self) -> str:
        return f"{self.size} pixels, mean {list(self.mean)}, std {list(self.std)}"


IMAGENET_INPUT_FORMAT = InputFormat(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""The format of nearly all weights for photographs; used for `auto` if no other is known."""


@dataclass(frozen=True)
class LibraryWeights:
    """Pretrained weights in a model's library."""

    name: str
    """The full name, for messages."""
    input_format: InputFormat
    classes: tuple[str, ...]
    """Class names; empty if they aren't known."""
    head_modules: tuple[str, ...]
    """The modules of the classifier; empty for the last layer with weights."""
    source: str
    """The address, for a download by hand."""
    load: Callable[[], Mapping[str, Tensor]]
    """Downloads them, unless the library has cached them. May raise any exception."""
