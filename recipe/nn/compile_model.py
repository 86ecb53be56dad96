"""torch.compile of a model."""

from __future__ import annotations

import os
import shutil

import torch
from torch import nn

CXX_COMPILERS = ("g++", "clang++", "c++", "cl")


def compile_model(model: nn.Module, device: torch.device) -> None:
    """Compiles the model in place at its first call; modules and parameter names are unchanged.

    Raises ValueError on a CPU without a C++ compiler.
    """
    if device.type == "cpu" and not any(
        map(shutil.which, (os.environ.get("CXX", ""), *CXX_COMPILERS))
    ):
        raise ValueError(
            "compile: needs a C++ compiler on the CPU, and this machine has none; install g++, or "
            "use compile=false"
        )
    model.compile()
