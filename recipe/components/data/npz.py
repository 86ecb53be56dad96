"""Reads arrays from an untrusted .npz file, without pickled objects and false sizes."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np

from recipe.errors import Problems
from recipe.formatting import escape_unprintable, format_bytes
from recipe.nn import memory_limit

COPIES_IN_MEMORY = 2
CHUNK_BYTES = 2**20
MAX_HEADER_BYTES = 2**16
MAX_COMPRESSION_RATIO = 100  # applies to files with more than MAX_UNCHECKED_BYTES of arrays
MAX_UNCHECKED_BYTES = 2**28

HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_arrays(file: Path, names: Iterable[str]) -> dict[str, Any]:
    """Returns the arrays with these names that are in the file.

    The declared size of an array is checked before memory is allocated. Raises ValueError for a
    file that is not an .npz, or that would exhaust memory; SpecError with all arrays that can't be
    read.
    """
    shown = escape_unprintable(file)
    with _open_archive(file, shown) as archive:
        entries = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        wanted = {name: entries[name] for name in names if name in entries}
        stated = sum(info.file_size for info in wanted.values())
        stored = min(sum(info.compress_size for info in wanted.values()), file.stat().st_size)
        memory_limit.check_free_memory(
            COPIES_IN_MEMORY * stated, "data.path", f"split {shown}, or store x as uint8"
        )
        if stated > max(MAX_UNCHECKED_BYTES, MAX_COMPRESSION_RATIO * stored):
            raise ValueError(
                f"data.path: {shown} declares {format_bytes(stated)} of arrays in "
                f"{format_bytes(stored)}, more than {MAX_COMPRESSION_RATIO} to 1, as a file made "
                "to exhaust memory does; if it is yours, write it uncompressed with numpy.savez"
            )
        problems, found = Problems(), {}
        for name, info in wanted.items():
            try:
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise ValueError("its compression method is not one of numpy's")
                with archive.open(info) as stream:
                    found[name] = _read_array(stream, info.file_size)
            except Exception as error:  # zlib, zipfile and numpy raise many types
                reason = " ".join(str(error).split()) or type(error).__name__
                problems.append(f"data.path: {name} of {shown} can't be read: {reason}")
        problems.raise_if_any()
    return found


def _open_archive(file: Path, shown: str) -> zipfile.ZipFile:
    try:
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise OSError(0, "it is not a regular file")
        return zipfile.ZipFile(file)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or _describe_file_type(file)
        raise ValueError(f"data.path: {shown} is not a readable .npz: {reason}") from error


def _read_array(stream: IO[bytes], size: int) -> Any:
    if size == 0:
        raise ValueError("it is empty")
    start = io.BytesIO(stream.read(MAX_HEADER_BYTES))
    version = np.lib.format.read_magic(start)
    if version not in HEADER_READERS:
        raise ValueError(f"its .npy format version {version} is not supported")
    shape, fortran, dtype = HEADER_READERS[version](start)
    if dtype.hasobject:
        raise ValueError(
            "it contains Python objects, which can run code when they are loaded; save an array of "
            "numbers (or of strings for classes)"
        )
    declared, there = math.prod(shape) * dtype.itemsize, size - start.tell()
    if declared != there or any(length < 0 for length in shape):
        raise ValueError(
            f"{dtype} of shape {shape} needs {declared:,} bytes, but there are {there:,}; it was "
            "truncated or manipulated, write it again with numpy.savez"
        )
    content, filled = np.empty(declared, np.uint8), 0
    chunk = start.read()
    while chunk:
        content[filled : filled + len(chunk)] = np.frombuffer(chunk, np.uint8)
        filled += len(chunk)
        chunk = stream.read(CHUNK_BYTES)
    if filled != declared:
        raise ValueError(f"{declared:,} bytes are declared, but there are {filled:,}")
    flat = content.view(dtype)
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def _describe_file_type(file: Path) -> str:
    """Explains by its first bytes why a file is not an .npz."""
    with file.open("rb") as stream:
        start = stream.read(6)
    if not start:
        return "it is empty"
    if start == b"\x93NUMPY":
        return "it is a single array without a name (.npy); write it with numpy.savez"
    if start[:2] == b"PK":
        return "its end is missing; copy it again"
    return "it is not a zip archive; write it with numpy.savez"
