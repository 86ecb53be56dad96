"""Lists the image files in a folder, and finds those that can't be read.

The check reads the header and the end of each file (about 80 microseconds), as decoding a large
folder takes as long as an epoch. A file is decoded if it may be truncated, or its format has no
known end. Only damage in the middle of a file is left to be found in training.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, overload

import numpy as np
from PIL import ImageFile, TiffImagePlugin

from recipe.components.data.image_reading import ImageError, open_image, read_image
from recipe.formatting import escape_unprintable

HEIF_SUFFIXES = frozenset((".heic", ".heif", ".hif"))
IMAGE_SUFFIXES = HEIF_SUFFIXES | frozenset((
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp",
    ".ppm", ".pgm", ".pbm",
))  # fmt: skip
UNSUPPORTED_SUFFIXES = frozenset((
    ".avif", ".jxl", ".jp2", ".psd", ".tga",
    ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf",
))  # fmt: skip
"""Listed as well, so that these images are reported instead of ignored."""


def list_image_files(folder: Path) -> list[Path]:
    """Returns all files below `folder` with an image suffix, relative to it, sorted.

    Links are followed. Raises ValueError for a link to a folder above it, and OSError for a folder
    that can't be listed.
    """
    found: list[Path] = []
    waiting: list[tuple[str, tuple[tuple[int, int], ...]]] = [(str(folder), ())]
    while waiting:
        where, above = waiting.pop()
        about = os.stat(where)
        here = about.st_dev, about.st_ino
        if here in above:
            raise ValueError(
                f"{escape_unprintable(where)} is a link to a folder above it; remove it"
            )
        with os.scandir(where) as entries:
            for entry in entries:
                if _is_folder(entry):
                    waiting.append((entry.path, (*above, here)))
                elif Path(entry.name).suffix.lower() in IMAGE_SUFFIXES | UNSUPPORTED_SUFFIXES:
                    found.append(Path(entry.path).relative_to(folder))
    return sorted(found, key=lambda path: path.as_posix())


def decoder_packages(files: Iterable[str]) -> set[str]:
    """Returns the packages that decode the files."""
    heif = any(os.path.splitext(file)[1].lower() in HEIF_SUFFIXES for file in files)
    return {"PIL", "pillow_heif"} if heif else {"PIL"}


def find_unreadable(folder: Path, files: Iterable[Path], max_pixels: int) -> list[str]:
    """Returns, for each file that `check_image` refuses, its name and the reason, such as
    `a.png (the file is empty)`. Files are relative to `folder`."""
    found = []
    for file in files:
        try:
            check_image(folder / file, max_pixels)
        except ImageError as error:
            found.append(f"{escape_unprintable(file)} ({error.reason})")
    return found


def check_image(path: Path | str, max_pixels: int | None = None) -> None:
    """Raises ImageError if the header or the end of a file shows that it can't be read, or that it
    has too many pixels."""
    with open_image(Path(path), max_pixels) as image:
        # 32-bit pixels may be beyond the 16 bits that read_image accepts
        must_decode = image.mode == "I" or not _is_complete_file(image)
    if must_decode:
        read_image(path, channels=1, max_pixels=max_pixels)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself, which is reported when it is read
        return False


def _is_complete_file(image: ImageFile.ImageFile) -> bool:
    """Whether the file has the length that its format states; False if that is unknown."""
    stream = image.fp
    assert stream is not None
    stream.seek(0)
    head = stream.read(12)
    size = stream.seek(0, os.SEEK_END)
    stream.seek(-min(size, 32), os.SEEK_END)
    tail = stream.read()
    if image.format in ("JPEG", "MPO"):
        return tail.rstrip(b"\0\r\n ").endswith(b"\xff\xd9")
    if image.format == "PNG":
        return tail.endswith(b"\0\0\0\0IEND\xaeB`\x82")
    if image.format == "GIF":
        return tail.endswith(b";")
    if image.format == "WEBP":
        return int.from_bytes(head[4:8], "little") + 8 <= size
    if image.format == "BMP":
        return 0 < int.from_bytes(head[2:6], "little") <= size
    if image.format == "HEIF":
        return _find_heif_end(stream) == size
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        starts, lengths = (
            image.tag_v2.get(strips) or image.tag_v2.get(tiles) or ()
            for strips, tiles in ((273, 324), (279, 325))
        )
        ends = [sum(strip) for strip in zip(starts, lengths, strict=False)]
        return len(starts) == len(lengths) and 0 < max(ends, default=0) <= size
    return False


def _find_heif_end(stream: IO[bytes]) -> int:
    """Returns the end of the last box of a HEIF file; -1 if it isn't stated."""
    end = stream.seek(0)
    while head := stream.read(16):
        length = int.from_bytes(head[:4], "big")
        if length == 1:  # the length follows the box's name
            length = int.from_bytes(head[8:], "big")
        if length < 8:
            return -1
        end = stream.seek(end + length)
    return end


class PackedPaths(Sequence[str]):
    """Paths below a folder, with / between their parts; all of them Unicode.

    100,000 paths as objects take 50 MiB; here they take as many bytes as they have characters, and
    a process that reads files gets a copy without touching the memory page of each.
    """

    def __init__(self, paths: Iterable[Path | str]) -> None:
        encoded = [(p if isinstance(p, str) else p.as_posix()).encode() for p in paths]
        self._text = b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)])

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return self._text[self._ends[index] : self._ends[index + 1]].decode()
