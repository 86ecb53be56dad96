"""Checks of free memory, and a limit to the memory of this process."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil


def check_free_memory(required_bytes: int, key: str, way_out: str) -> None:
    """Raises ValueError, naming `key`, if more bytes are needed than are free."""
    free = psutil.virtual_memory().available
    if required_bytes > free:
        raise ValueError(
            f"{key}: needs {required_bytes / 2**30:,.1f} GiB of memory, and {free / 2**30:,.1f} "
            f"are free; {way_out}"
        )


@contextmanager
def limit_memory(extra_bytes: int) -> Iterator[None]:
    """Limits what this process can allocate in the block to about `extra_bytes`, on Linux only.

    Larger allocations fail with MemoryError or a library's error.
    """
    if sys.platform != "linux":
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = psutil.Process().memory_info().vms + extra_bytes
    if soft != resource.RLIM_INFINITY:
        limit = min(limit, soft)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
