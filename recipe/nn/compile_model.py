"""torch.compile: a model's forward and backward as code made for them."""

from __future__ import annotations

import os
import shutil

import torch
from torch import nn

CXX_COMPILERS = ("g++", "clang++", "c++", "cl")


def compile_model(model: nn.Module, device: torch.device) -> None:
    """Has the model's forward compiled when it is first called, in place: its modules and the
    names of its parameters stay what they are.

    Raises ValueError where there is no compiler for it.
    """
    if device.type == "cpu" and not any(
        map(shutil.which, (os.environ.get("CXX", ""), *CXX_COMPILERS))
    ):
        raise ValueError(
            "compile: needs a C++ compiler on the CPU, and this machine has none; install g++, or "
            "use compile=false"
        )
    model.compile()
