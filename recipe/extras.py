"""Libraries that an extra of recipe installs."""

from __future__ import annotations

import importlib
from typing import Any


def imported(module: str, choice: str, extra: str) -> Any:
    """The module, for that choice of an option; raises ValueError where it can't be imported."""
    library = module.partition(".")[0]
    try:
        importlib.import_module(library)
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # RuntimeError: beside a torch it isn't made for
        way_out = f"install the extra: pip install torch-recipe[{extra}]"
        if not isinstance(error, ModuleNotFoundError):
            way_out = (
                f"it isn't made for this torch: install torch and {library} of one release, from "
                "one place"
            )
        raise ValueError(
            f"{choice} needs {library}, and it can't be imported ({error}); {way_out}"
        ) from error
