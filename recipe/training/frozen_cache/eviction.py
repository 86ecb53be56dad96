"""Room for what is kept: how much of it there may be, and what makes way for more."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from pathlib import Path

import psutil

from recipe.formatting import bytes_
from recipe.training.frozen_cache.not_cacheable import Refused

ONE = 4 * 2**30
"""Bytes that one prefix may keep of one part of the data."""

ALL = 16 * 2**30
"""Bytes of everything that is kept below one output_dir."""

SUFFIX = ".kept"


def check(needed: int) -> None:
    """Raises Refused if that is more than is kept, or than memory has room for."""
    free = psutil.virtual_memory().available // 2
    if needed > min(ONE, free):
        limit = "the limit is" if free > ONE else "half of the free memory is"
        raise Refused(f"{bytes_(needed)} would have to be kept; {limit} {bytes_(min(ONE, free))}")


def make(folder: Path, needed: int, limit: int = ALL) -> None:
    """Room for a file: those used least recently go, but none that a process has open.

    Raises Refused if that isn't enough, OSError.
    """
    for path in folder.glob("*.tmp"):  # of builders that were killed
        _remove(path)
    there = []
    for path in folder.glob(f"*{SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):  # another process makes room, too
            about = path.stat()
            there.append((about.st_atime_ns, path, about.st_size))
    total = sum(size for _, _, size in there)
    for _, path, size in sorted(there):
        if total + needed <= limit and _fits(folder, needed):
            return
        total -= size * _remove(path)
    if total + needed > limit or not _fits(folder, needed):
        raise Refused(f"{bytes_(needed)} would have to be kept, and {folder} has no room for it")


def _fits(folder: Path, needed: int) -> bool:
    """Whether as much again stays free for the record."""
    return shutil.disk_usage(folder).free > 2 * needed


def _remove(path: Path) -> bool:
    """Whether nobody had it open, so that it is gone now."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
        path.with_suffix(".lock").unlink(missing_ok=True)
        return True
    return False
