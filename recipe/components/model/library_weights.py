"""The weights that a model's library offers, and the images that they are made for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class InputFormat:
    """The images that weights are made for."""

    size: int
    """Height and width, in pixels."""
    mean: Sequence[float]
    """Per channel, on the scale where black is 0 and white is 1."""
    std: Sequence[float]

    def __str__(self) -> str:
        return f"{self.size} pixels, mean {list(self.mean)}, std {list(self.std)}"


IMAGENET_INPUT_FORMAT = InputFormat(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""What nearly all weights for photographs are made for; `auto` where nothing else is known."""


@dataclass(frozen=True)
class LibraryWeights:
    """Weights that a model's library has under a name."""

    name: str
    """In full, for people."""
    input_format: InputFormat
    classes: tuple[str, ...]
    """What they tell apart; empty where that isn't known."""
    head_modules: tuple[str, ...]
    """Modules that classify; empty: the last layer with weights."""
    source: str
    """Where they come from, for someone who has to fetch them by hand."""
    load: Callable[[], Mapping[str, Tensor]]
    """Fetches them, unless the library has before. May raise anything."""
