"""Whether data fit into memory, told before it is asked for."""

from __future__ import annotations

import psutil


def check(needed: int, key: str, way_out: str) -> None:
    """Raises ValueError, headed by `key`, if more bytes are needed than are free."""
    free = psutil.virtual_memory().available
    if needed > free:
        raise ValueError(
            f"{key}: needs {needed / 2**30:,.1f} GiB of memory, and {free / 2**30:,.1f} are free;"
            f" {way_out}"
        )
