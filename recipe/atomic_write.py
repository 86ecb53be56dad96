"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path


def is_disk_full(error: OSError) -> bool:
    """Whether it is for want of room, or of a quota, that something couldn't be written."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_file(path: Path, content: bytes | memoryview, *, sync: bool = True) -> None:
    """`path` is at any moment the old file or the new one, never a part, whatever dies meanwhile;
    without `sync` only what the machine itself outlives.

    Raises OSError, such as of a full disk; then the old file is as it was.
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
