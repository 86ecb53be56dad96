"""Image files in a folder: which there are, and which of them can't be read.

Checking reads the head and the end of each file (some 80 microseconds), because decoding all of a
large folder takes as long as an epoch. A file that stops before its format says it ends, or whose
format doesn't say, is decoded. So what remains for training to find is damage in the middle of a
file, and what happens to files meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, overload

import numpy as np
from PIL import ImageFile, TiffImagePlugin

from recipe.components.data.images import ImageError, open_image, read_image
from recipe.formatting import escape_unprintable

HEIF_SUFFIXES = frozenset((".heic", ".heif", ".hif"))
"""Of photographs that pillow-heif reads."""
IMAGE_SUFFIXES = HEIF_SUFFIXES | frozenset((
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp",
    ".ppm", ".pgm", ".pbm",
))  # fmt: skip
UNSUPPORTED_SUFFIXES = frozenset((
    ".avif", ".jxl", ".jp2", ".psd", ".tga",
    ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf",
))  # fmt: skip
"""Of images that aren't read here: listed too, so that they are named and not passed over."""


def list_image_files(folder: Path) -> list[Path]:
    """Every file below `folder` named like an image (see SUFFIXES, UNREAD), relative to it, sorted.

    Links are followed. Raises ValueError for one that leads back to a folder above it, and
    OSError for a folder that can't be listed.
    """
    found: list[Path] = []
    waiting: list[tuple[str, tuple[tuple[int, int], ...]]] = [(str(folder), ())]
    while waiting:
        where, above = waiting.pop()
        about = os.stat(where)
        here = about.st_dev, about.st_ino
        if here in above:
            raise ValueError(
                f"{escape_unprintable(where)} is a link back to a folder that it is in; remove it"
            )
        with os.scandir(where) as entries:
            for entry in entries:
                if _is_folder(entry):
                    waiting.append((entry.path, (*above, here)))
                elif Path(entry.name).suffix.lower() in IMAGE_SUFFIXES | UNSUPPORTED_SUFFIXES:
                    found.append(Path(entry.path).relative_to(folder))
    return sorted(found, key=lambda path: path.as_posix())


def decoder_packages(files: Iterable[str]) -> set[str]:
    """The packages that decode them."""
    heif = any(os.path.splitext(file)[1].lower() in HEIF_SUFFIXES for file in files)
    return {"PIL", "pillow_heif"} if heif else {"PIL"}


def find_unreadable(folder: Path, files: Iterable[Path], max_pixels: int) -> list[str]:
    """`a.png (the file is empty)` for each of the files, relative to `folder`, that check_image
    finds to be none."""
    found = []
    for file in files:
        try:
            check_image(folder / file, max_pixels)
        except ImageError as error:
            found.append(f"{escape_unprintable(file)} ({error.reason})")
    return found


def check_image(path: Path | str, max_pixels: int | None = None) -> None:
    """Raise read_image's ImageError where the head or the end of the file shows it is no image, or
    one of too many pixels."""
    with open_image(Path(path), max_pixels) as image:
        # 32-bit pixels may have values that read_image refuses
        doubtful = image.mode == "I" or not _is_complete_file(image)
    if doubtful:
        read_image(path, channels=1, max_pixels=max_pixels)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself: reading it will say so
        return False


def _is_complete_file(image: ImageFile.ImageFile) -> bool:
    """Whether the file is as long as its format says; False where that isn't told so simply."""
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
    """Where the last of the boxes ends that a HEIF file consists of; -1 if it says no end."""
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
