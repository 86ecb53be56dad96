"""What the C library does with memory that a step of training has freed.

Linux's glibc gives the end of its heap back to the system once enough lies free there: 128 kB, or
twice the largest block that it mapped by itself and freed, 64 MB at most. The activations of a step
are often that much, and the next step's are the same again, so every step has the system find,
clear and map thousands of pages anew: up to a tenth of a step's time, where activations are of some
megabytes each. Kept, they are used again as they are. A process then has 1 to 10 % more memory at
most (measured), and has it until it ends.

Source: https://man7.org/linux/man-pages/man3/mallopt.3.html
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""The numbers that mallopt has for them."""

TRIM_THRESHOLD_BYTES = 2**31 - 1
"""Bytes that may lie free at the end of the heap: the most that mallopt takes."""

MMAP_THRESHOLD_BYTES = 32 << 20
"""Bytes from which a block is mapped by itself. glibc goes up to this by itself, as such blocks are
freed; above it, holes in the heap would cost a fifth to a half more memory (measured)."""

HEAP_GROWTH_BYTES = 64 << 20
"""Bytes by which the heap grows at least, so that it grows seldom."""

MALLOC_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_THRESHOLD_")
"""Variables with which a user says the same; `GLIBC_TUNABLES` can, too."""


@functools.cache
def retain_freed_memory() -> None:
    """Has this process keep memory for the next step, unless the environment says how glibc is to
    do it. No numbers change. Nothing is done where there is no glibc."""
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if any(os.environ.get(name) for name in MALLOC_VARIABLES) or "glibc.malloc." in tunables:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for parameter, value in (
            (M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES),
            (M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES),
            (M_TOP_PAD, HEAP_GROWTH_BYTES),
        ):
            mallopt(parameter, value)
