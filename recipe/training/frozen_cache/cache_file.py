"""Kept outputs in a file: written whole or not at all, shared by every process that maps it.

Whoever reads a file holds a shared lock on it, whoever writes one an exclusive lock on the
temporary file; the system drops both when a process dies, in whatever way.
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

from recipe.training.frozen_cache import eviction
from recipe.training.frozen_cache.not_cacheable import NotCacheable
from recipe.training.frozen_cache.tensor_layout import RowLayout

ALIGNMENT_BYTES = 64
"""Each tensor begins at a multiple of as many bytes."""

Rows = tuple[Tensor, ...]
"""What is kept of some samples: a tensor (samples, numbers) for each layout."""

RowBatches = Callable[[], Iterable[tuple[int, Rows]]]
"""Batch by batch: the first sample's number, and the rows on the CPU. Every sample must come; one
that comes again must have the same bits."""

_verified_files: dict[Path, tuple[int, ...]] = {}
"""Files that this process has read through, as they were then."""


@dataclass
class CachedOutputs:
    tensors: Rows
    """Of all samples; on the CPU a mapping of the file, which processes share."""

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
    """What was kept under the key; None if nothing whole was."""
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
        weakref.finalize(found, os.close, handle)  # it is in use for as long as its lock is held
    return found


def _map_file(path: Path, handle: int, plan: _FileLayout) -> CachedOutputs | None:
    """What the file holds; one that is damaged is removed."""
    about = os.fstat(handle)
    if not about.st_nlink:  # it has just made way for another
        return None
    stamp = (about.st_ino, about.st_size, about.st_mtime_ns)
    mapped = None
    if about.st_size == plan.size:  # private, so that nothing can write into the file through it
        mapped = mmap.mmap(handle, 0, access=mmap.ACCESS_COPY)
    if mapped is None or (_verified_files.get(path) != stamp and not plan.is_intact(mapped)):
        path.unlink(missing_ok=True)
        return None
    _verified_files[path] = stamp
    with contextlib.suppress(OSError):  # another's, but good to read
        os.utime(path, ns=(time.time_ns(), about.st_mtime_ns))
    return CachedOutputs(tuple(plan.map_tensors(mapped)))


def load_or_write_outputs(
    folder: Path, key: str, layouts: tuple[RowLayout, ...], samples: int, batches: RowBatches
) -> CachedOutputs:
    """Keeps what the batches give, unless another process is just doing that, or has done it.

    Raises Refused, OSError.
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
    """Where what stands in a file: a header, the tensors, a hash of them all."""

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
        """Whether the file is what was written, to the last byte."""
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
            os.posix_fallocate(handle, 0, plan.size)  # a full disk shows now
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
    """Raises Refused if samples that came before have other bits now."""
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
