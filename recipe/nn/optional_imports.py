"""Libraries that an extra of recipe installs."""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any

TORCH_BINARY_LIBRARIES = ("torchvision", "timm")
"""torchvision, and a library that imports it."""


def import_optional(module: str, choice: str, extra: str) -> Any:
    """Imports a module that an option needs; raises ValueError if it can't be imported."""
    library = module.partition(".")[0]
    try:
        importlib.import_module(library)
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        way_out = f"install the extra: pip install torch-recipe[{extra}]"
        if not isinstance(error, ModuleNotFoundError):
            way_out = (
                _format_reinstall_hint()
                if library in TORCH_BINARY_LIBRARIES
                else f"it isn't made for this Python or torch; install {library} again"
            )
        raise ValueError(
            f"{choice} needs {library}, and it can't be imported ({error}); {way_out}"
        ) from error


def _format_reinstall_hint() -> str:
    """How to install a torch and a torchvision that were built for each other."""
    torch = f"torch=={importlib.metadata.version('torch').partition('+')[0]}"
    return (
        "torchvision was not built for this torch; install both builds for the CPU alone with "
        f"`uv pip install --reinstall --torch-backend=cpu {torch} torchvision`, or both for an "
        f"NVIDIA GPU with `pip install --force-reinstall {torch} torchvision`"
    )
