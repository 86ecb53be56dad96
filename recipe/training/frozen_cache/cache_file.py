"""Cached outputs in a file: written atomically, and shared by all processes that map it.

A process that reads a file holds a shared lock on it; one that writes holds an exclusive lock on
the temporary file. The system releases both when the process ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import mmap
import os
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from recipe.training.frozen_cache import NotCacheable, eviction
from recipe.training.frozen_cache.tensor_layout import RowLayout

ALIGNMENT_BYTES = 64

Rows = tuple[Tensor, ...]
"""Cached outputs of some samples: a tensor (samples, row_length) for each layout."""

RowBatches = Callable[[], Iterable[tuple[int, Rows]]]
"""Batches of the first sample's index and rows on the CPU. They must cover all samples; rows of a
sample that occurs twice must be bit-identical."""

_verified_files: dict[Path, tuple[int, ...]] = {}
"""Inode, size and time of files whose hash this process has checked."""


@dataclass
class CachedOutputs:
    tensors: Rows
    """Rows of all samples; on the CPU a memory map of the file."""

    def select(self, samples: Tensor) -> Iterator[Tensor]:
        """Copies of the rows of these samples, shape (n,) int64 on the same device."""
        for tensor in self.tensors:
            yield tensor.index_select(0, samples)

    def to(self, device: torch.device) -> CachedOutputs:
        if device.type == "cpu":
            return self
        return CachedOutputs(tuple(tensor.to(device) for tensor in self.tensors))


def load_cached_outputs(
    folder: Path, key: str, layouts: tuple[RowLayout, ...], samples: int
) -> CachedOutputs | None:
    """The outputs stored under the key; None if there is no intact file."""
    path = folder / f"{key}{eviction.CACHE_SUFFIX}"
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        found = _map_file(path, handle, _FileLayout(key, layouts, samples))
    except BaseException:
        os.close(handle)
        raise
    if found is None:
        os.close(handle)
    else:
        weakref.finalize(found, os.close, handle)  # its lock is held while it is in use
    return found


def _map_file(path: Path, handle: int, plan: _FileLayout) -> CachedOutputs | None:
    """The outputs in the file; a damaged file is removed."""
    about = os.fstat(handle)
    if not about.st_nlink:  # it has just been evicted
        return None
    stamp = (about.st_ino, about.st_size, about.st_mtime_ns)
    mapped = None
    if about.st_size == plan.size:  # private: writes don't reach the file
        mapped = mmap.mmap(handle, 0, access=mmap.ACCESS_COPY)
    if mapped is None or (_verified_files.get(path) != stamp and not plan.is_intact(mapped)):
        path.unlink(missing_ok=True)
        return None
    _verified_files[path] = stamp
    with contextlib.suppress(OSError):  # the file may belong to another user
        os.utime(path, ns=(time.time_ns(), about.st_mtime_ns))
    return CachedOutputs(tuple(plan.map_tensors(mapped)))


def load_or_write_outputs(
    folder: Path, key: str, layouts: tuple[RowLayout, ...], samples: int, batches: RowBatches
) -> CachedOutputs:
    """Stores the rows of all batches, unless another process does or has done so.

    Raises NotCacheable, OSError.
    """
    plan = _FileLayout(key, layouts, samples)
    eviction.check_entry_size(plan.size)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{key}.lock", thread_local=False):
        found = load_cached_outputs(folder, key, layouts, samples)
        if found is None:
            eviction.evict_entries(folder, plan.size)
            _write(folder / f"{key}{eviction.CACHE_SUFFIX}", plan, batches())
            found = load_cached_outputs(folder, key, layouts, samples)
    if found is None:
        raise NotCacheable("what was kept could not be read again")
    return found


class _FileLayout:
    """The offsets of header, tensors and their hash in a file."""

    def __init__(self, key: str, layouts: tuple[RowLayout, ...], samples: int) -> None:
        self.layouts, self.samples = layouts, samples
        header = {"key": key, "samples": samples, "tensors": list(map(str, layouts))}
        self.header = json.dumps(header).encode() + b"\n"
        self.offsets, end = [], len(self.header)
        for layout in layouts:
            end += -end % ALIGNMENT_BYTES
            self.offsets.append(end)
            end += layout.row_bytes * samples
        self.hash_offset = end
        self.size = end + hashlib.sha256().digest_size

    def map_tensors(self, mapped: mmap.mmap) -> Iterator[Tensor]:
        for start, layout in zip(self.offsets, self.layouts, strict=True):
            count = self.samples * layout.row_length
            flat = torch.frombuffer(mapped, dtype=layout.dtype, count=count, offset=start)
            yield flat.view(self.samples, layout.row_length)

    def compute_hash(self, tensors: Iterable[hashlib._Hash]) -> bytes:
        return hashlib.sha256(self.header + b"".join(each.digest() for each in tensors)).digest()

    def is_intact(self, mapped: mmap.mmap) -> bool:
        """Whether header and hash of the file are right."""
        view = memoryview(mapped)
        found = [
            hashlib.sha256(view[start : start + layout.row_bytes * self.samples])
            for start, layout in zip(self.offsets, self.layouts, strict=True)
        ]
        return view[: len(self.header)] == self.header and view[
            self.hash_offset :
        ] == self.compute_hash(found)


def _write(path: Path, plan: _FileLayout, batches: Iterable[tuple[int, Rows]]) -> None:
    handle, name = tempfile.mkstemp(".tmp", f"{path.stem}.", path.parent)
    temporary = Path(name)
    try:
        with open(handle, "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            os.posix_fallocate(handle, 0, plan.size)  # fails now if the disk is full
            hashes = [hashlib.sha256() for _ in plan.layouts]
            done = 0
            for first, rows in batches:
                _check_repeated_rows(handle, plan, first, rows, done)
                for each, layout, start, hashed in zip(
                    rows, plan.layouts, plan.offsets, hashes, strict=True
                ):
                    content = _to_bytes(each[done - first :])
                    _write_at(handle, content, start + done * layout.row_bytes)
                    hashed.update(content)
                done = first + len(rows[0])
            assert done == plan.samples
            _write_at(handle, memoryview(plan.header), 0)
            _write_at(handle, memoryview(plan.compute_hash(hashes)), plan.hash_offset)
            about = os.fstat(handle)
            os.replace(temporary, path)
        _verified_files[path] = (about.st_ino, about.st_size, about.st_mtime_ns)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _check_repeated_rows(handle: int, plan: _FileLayout, first: int, rows: Rows, done: int) -> None:
    """Raises NotCacheable if rows of samples that were written before differ."""
    again = done - first
    if again > 0:
        for each, layout, start in zip(rows, plan.layouts, plan.offsets, strict=True):
            before = os.pread(handle, again * layout.row_bytes, start + first * layout.row_bytes)
            if before != _to_bytes(each[:again]):
                raise NotCacheable("a sample's place in its batch changes the last bits")


def _to_bytes(rows: Tensor) -> memoryview:
    flat = rows.contiguous().flatten()
    content: Any = flat.view(torch.uint8).numpy().data if flat.numel() else b""
    return memoryview(content)


def _write_at(handle: int, content: memoryview, offset: int) -> None:
    while content:
        written = os.pwrite(handle, content, offset)
        content, offset = content[written:], offset + written
