"""Whether data fit into memory, before it is asked for; and a limit to what is asked for."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil


def check_free_memory(required_bytes: int, key: str, way_out: str) -> None:
    """Raises ValueError, headed by `key`, if more bytes are needed than are free."""
    free = psutil.virtual_memory().available
    if required_bytes > free:
        raise ValueError(
            f"{key}: needs {required_bytes / 2**30:,.1f} GiB of memory, and {free / 2**30:,.1f} "
            "are free;"
            f" {way_out}"
        )


@contextmanager
def limit_memory(extra_bytes: int) -> Iterator[None]:
    """In the block this process can take about `more` bytes of memory; beyond that asking for
    memory fails, with a MemoryError or what a library makes of it. On Linux alone."""
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
