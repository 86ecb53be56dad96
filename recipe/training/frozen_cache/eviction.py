"""Size limits of the cache, and eviction of the least recently used entries."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from pathlib import Path

import psutil

from recipe.formatting import format_bytes
from recipe.training.frozen_cache import NotCacheable

MAX_ENTRY_BYTES = 4 * 2**30  # for one prefix and one split

MAX_CACHE_BYTES = 16 * 2**30  # per output_dir

CACHE_SUFFIX = ".kept"


def check_entry_size(required_bytes: int) -> None:
    """Raises NotCacheable if that is above the limit, or above half of the free memory."""
    free = psutil.virtual_memory().available // 2
    if required_bytes > min(MAX_ENTRY_BYTES, free):
        limit = "the limit is" if free > MAX_ENTRY_BYTES else "half of the free memory is"
        raise NotCacheable(
            f"{format_bytes(required_bytes)} would have to be kept; {limit} "
            f"{format_bytes(min(MAX_ENTRY_BYTES, free))}"
        )


def evict_entries(folder: Path, required_bytes: int, max_bytes: int = MAX_CACHE_BYTES) -> None:
    """Frees space for a file: removes the least recently used files that no process has open.

    Raises NotCacheable if that isn't enough, OSError.
    """
    for path in folder.glob("*.tmp"):  # of processes that were killed while writing
        _remove_unused(path)
    there = []
    for path in folder.glob(f"*{CACHE_SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):  # another process evicts entries, too
            about = path.stat()
            there.append((about.st_atime_ns, path, about.st_size))
    total = sum(size for _, _, size in there)
    for _, path, size in sorted(there):
        if total + required_bytes <= max_bytes and _has_free_space(folder, required_bytes):
            return
        total -= size * _remove_unused(path)
    if total + required_bytes > max_bytes or not _has_free_space(folder, required_bytes):
        raise NotCacheable(
            f"{format_bytes(required_bytes)} would have to be kept, and {folder} has no room for it"
        )


def _has_free_space(folder: Path, needed: int) -> bool:
    """Whether the same space again stays free, for the records of runs."""
    return shutil.disk_usage(folder).free > 2 * needed


def _remove_unused(path: Path) -> bool:
    """Whether the file was removed, as no process had it open."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
        path.with_suffix(".lock").unlink(missing_ok=True)
        return True
    return False
