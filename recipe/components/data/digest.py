"""Hashes of tensors and files, which identify data."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor


def hash_tensors(*parts: Tensor | str) -> str:
    """Returns the SHA-256 of tensors (values, shape, dtype) and strings, as 64 hex digits."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            sha.update(f"{part.dtype}{tuple(part.shape)}".encode())
            sha.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        else:
            sha.update(part.encode())
        sha.update(b"\0")
    return sha.hexdigest()


def hash_files(
    root: Path, files: Iterable[Path], *, full_hash_limit: int, with_unreadable: bool = False
) -> str:
    """Returns the SHA-256 of the names (relative to `root`), sizes and contents of files.

    If the files have more than `full_hash_limit` bytes in total, only the first and last 4 KiB of
    each are read, which misses changes in the middle that keep the size. Raises OSError for a file
    that can't be read, unless `with_unreadable`, which hashes it without content.
    """
    sizes = {file: _file_size(root / file, unread=with_unreadable) for file in files}
    all_bytes = sum(sizes.values()) <= full_hash_limit
    sha = hashlib.sha256(b"whole" if all_bytes else b"ends")
    for file, size in sizes.items():
        sha.update(f"{file.as_posix()}\0{size}\0".encode())
        if size < 0:
            continue
        with (root / file).open("rb") as stream:
            if not all_bytes and size > 2 * 4096:
                sha.update(stream.read(4096))
                stream.seek(-4096, os.SEEK_END)
            sha.update(stream.read())
    return sha.hexdigest()


def _file_size(path: Path, *, unread: bool) -> int:
    """Returns the size in bytes; with `unread`, -1 for a file that can't be read."""
    try:
        found = path.stat()
        if unread and not (stat.S_ISREG(found.st_mode) and os.access(path, os.R_OK)):
            return -1
        return found.st_size
    except OSError:
        if not unread:
            raise
        return -1
