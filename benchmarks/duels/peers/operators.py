"""Makes torchvision importable, as some peers import it where it is there."""

from __future__ import annotations

import sys
from importlib import util

import torch

KEPT: list[torch.library.Library] = []
"""Operators go when their library does."""


def define() -> None:
    """The two operators that torchvision lacks beside a torch for the CPU alone; nothing that is
    measured calls them."""
    if util.find_spec("torchvision") is None:
        return
    try:
        import torchvision
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        KEPT.append(library)
        import torchvision  # noqa: F401
