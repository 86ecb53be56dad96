"""What the C library does with memory that a step of training has freed.

Linux's glibc gives the end of its heap back to the system once 128 kB or a little more lie free
there. The activations of a step do, and the next step's are the same again, so every step has the
system find, clear and map thousands of pages anew: a twentieth to a tenth of the time of a step
with activations of some megabytes. Kept, they are used again as they are. What a process has at
most does not change; it has it until it ends.

Source: https://man7.org/linux/man-pages/man3/mallopt.3.html
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
"""The numbers that mallopt has for them."""

KEPT = 2**31 - 1
"""Bytes that may lie free at the end of the heap: the most that mallopt takes."""

MAPPED_FROM = 32 << 20
"""Bytes from which a block is mapped by itself. glibc goes up to this by itself, as such blocks are
freed; above it, holes in the heap would cost a fifth to a half more memory (measured)."""

GROWTH = 64 << 20
"""Bytes by which the heap grows at least, so that it grows seldom."""


@functools.cache
def keep_freed() -> None:
    """Has this process keep memory for the next step, unless the environment says how glibc is to
    do it. No numbers change. Nothing is done where there is no glibc."""
    if any(name.startswith("MALLOC_") for name in os.environ) or "GLIBC_TUNABLES" in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for parameter, value in (
            (MMAP_THRESHOLD, MAPPED_FROM),
            (TRIM_THRESHOLD, KEPT),
            (TOP_PAD, GROWTH),
        ):
            mallopt(parameter, value)
