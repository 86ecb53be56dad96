"""Files that are written completely or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path


def is_disk_full(error: OSError) -> bool:
    """Whether a write failed for lack of space or quota."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_file(path: Path, content: bytes | memoryview, *, sync: bool = True) -> None:
    """Replaces a file atomically; without `sync`, the new content may be lost if the machine fails.

    Raises OSError, such as for a full disk; then the old file is unchanged.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if not sync:
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # so that the name is kept, too
    finally:
        os.close(folder)
