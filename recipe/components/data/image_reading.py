"""Converts image files to tensors, in the same way for training and prediction.

An image is a tensor (channels, height, width), float32, where black is 0 and white is 1. It is read
by `read_image`, then cropped and resized by `crop_and_resize`, then normalised by `normalise`.
"""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

from recipe.errors import SettingError
from recipe.formatting import escape_unprintable
from recipe.nn.optional_imports import import_optional

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")

HEIF_BRANDS = frozenset((
    b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1",
))  # fmt: skip
"""The identifiers of HEIF photographs, such as an iPhone's, after "ftyp"."""


class ImageError(ValueError):
    """A file can't be read as an image."""

    def __init__(self, path: Path, reason: str) -> None:
        self.reason = reason
        super().__init__(f"{escape_unprintable(path)}: is not a readable image: {reason}")


def read_image(path: Path | str, *, channels: int, max_pixels: int | None = None) -> Tensor:
    """Returns the image in a file, (channels, height, width), float32 in 0..1.

    One channel is luma (ITU-R 601), three are red, green and blue; gray is repeated. An 8-bit
    value v is exactly v / 255, a 16-bit gray one v / 65535. The image is oriented by its EXIF data
    (if they can be read), transparent pixels are blended with white, the first of several frames is
    used, and colour profiles are ignored. A JPEG with more than `max_pixels` pixels is decoded at a
    half, a quarter or an eighth of its size, unless it is progressive, which would save no memory.
    Raises ImageError, also for any other image with more pixels (None: about 90 million, Pillow's
    limit).
    """
    return _read_channels(path, channels, max_pixels, lambda plane: plane)


def read_resized_image(
    path: Path | str, *, channels: int, size: tuple[int, int], max_pixels: int | None
) -> Tensor:
    """Returns crop_and_resize(read_image(...), size), bit-identical but in less memory: only one
    channel is held as floats at a time."""
    return _read_channels(path, channels, max_pixels, lambda plane: crop_and_resize(plane, size))


def _read_channels(
    path: Path | str, channels: int, max_pixels: int | None, each: Callable[[Tensor], Tensor]
) -> Tensor:
    if channels not in (1, 3):
        raise SettingError("data.channels", "must be 1 or 3 for image files", channels, "use 3")
    with open_image(Path(path), max_pixels) as image:
        _apply_exif_orientation(image)
        sixteen_bit = image.mode[0] == "I"
        planes = (
            iter([_read_sixteen_bit(image)]) if sixteen_bit else _read_eight_bit(image, channels)
        )
        pixels = torch.cat([each(plane[None]) for plane in planes])
    return pixels.expand(channels, -1, -1).contiguous()


def crop_and_resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns images (..., channels, h, w) with the size (height, width); values stay in 0..1.

    The largest centred crop with the aspect ratio of `size` is resized: bilinear, with aligned
    pixel centres (not corners), antialiased if it shrinks. An image that already has the size isn't
    changed. torchvision's Resize and CenterCrop resize before they crop, with the same result up to
    rounding to whole pixels.
    """
    (h, w), (height, width) = images.shape[-2:], size
    if h * width <= w * height:
        part_h, part_w = h, max(1, round(h * width / height))
    else:
        part_h, part_w = max(1, round(w * height / width)), w
    top, left = (h - part_h) // 2, (w - part_w) // 2
    part = images[..., top : top + part_h, left : left + part_w]
    if (part_h, part_w) == size:
        return part.contiguous()
    flat = part.reshape(-1, 1, part_h, part_w)
    resized = F.interpolate(flat, size=size, mode="bilinear", antialias=True)
    return resized.reshape(*images.shape[:-2], *size)


def normalise(images: Tensor, *, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Returns (images - mean) / std per channel, for images (..., channels, height, width)."""
    return (images - torch.tensor(mean)[:, None, None]).div_(torch.tensor(std)[:, None, None])


def normalise_bytes(images: Tensor, *, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalises images (..., channels, height, width), uint8, where 255 is white."""
    return normalise(images.float().div_(255), mean=mean, std=std)


def channel_mean_and_std(inputs: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation of each channel of images (n, channels, height, width).

    Both are on the scale where black is 0 and white is 1; in uint8 images, white is 255.
    """
    mean, std = [], []
    for channel in inputs.unbind(1):
        if channel.dtype == torch.uint8:  # by a histogram: exact, and without a copy as floats
            share = channel.flatten().bincount(minlength=256).double() / channel.numel()
            values = torch.arange(256, dtype=torch.float64) / 255
            centre = (share * values).sum()
            variance = (share * (values - centre) ** 2).sum()
        else:
            variance, centre = torch.var_mean(channel.double(), correction=0)
        mean.append(centre.item())
        std.append(variance.sqrt().item())
    return tuple(mean), tuple(std)


@contextmanager
def open_image(path: Path, max_pixels: int | None = None) -> Iterator[ImageFile.ImageFile]:
    """Opens an image file and reads its header. Any exception of the block is raised as an
    ImageError."""
    try:
        if stat.S_IFMT(os.stat(path).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
            raise ValueError("it is not a regular file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about unused metadata
            warnings.simplefilter(
                "error" if max_pixels is None else "ignore", Image.DecompressionBombWarning
            )
            with _open_with_pillow(path) as image:
                if image.mode == "F":
                    raise ValueError(
                        "the value of white in floating-point pixels is unknown; save it with 8 or "
                        "16 bits"
                    )
                if max_pixels is not None:
                    _limit_pixels(image, max_pixels)
                yield image
    except Exception as error:  # Pillow's decoders raise many types of exceptions
        raise ImageError(path, _describe_error(path, error, max_pixels)) from error


def _open_with_pillow(path: Path) -> ImageFile.ImageFile:
    try:
        return Image.open(path, formats=FORMATS)
    except UnidentifiedImageError:
        with path.open("rb") as stream:
            head = stream.read(12)
        if head[4:8] != b"ftyp" or head[8:] not in HEIF_BRANDS:
            raise
    import_optional("pillow_heif", "a HEIC photograph", "heic").register_heif_opener()
    return Image.open(path, formats=("HEIF",))


def _limit_pixels(image: ImageFile.ImageFile, max_pixels: int) -> None:
    """Reduces the decoded size of a JPEG with more pixels. Raises ValueError if that is
    impossible."""
    width, height = image.size
    if width * height <= max_pixels:
        return
    if image.format in ("JPEG", "MPO") and "progressive" not in image.info:
        for scale in (2, 4, 8):
            if -(-width // scale) * -(-height // scale) <= max_pixels:
                image.draft(None, (width // scale, height // scale))
                return
    raise ValueError(f"it has {width} x {height} pixels, more than data.max_pixels={max_pixels}")


def _describe_error(path: Path, error: Exception, max_pixels: int | None) -> str:
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        pixels, *limit = re.findall(r"\d+", str(error))  # the message doesn't contain the size
        most = f"Pillow's limit of {limit[0]}" if max_pixels is None else f"data.{max_pixels=}"
        return f"it has {pixels} pixels, more than {most}"
    if isinstance(error, UnidentifiedImageError):
        size = path.stat().st_size
        heic = ["HEIC"] if find_spec("pillow_heif") else []
        return f"none of {', '.join([*FORMATS, *heic])}" if size else "the file is empty"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _apply_exif_orientation(image: Image.Image) -> None:
    image.load()
    with suppress(SyntaxError):  # unreadable EXIF data are ignored
        ImageOps.exif_transpose(image, in_place=True)


def _read_eight_bit(image: Image.Image, channels: int) -> Iterator[Tensor]:
    """Yields each channel, (height, width)."""
    transparent = image.has_transparency_data
    image = _convert_mode(image, "RGBA" if transparent else "RGB")
    if channels == 1:
        image = _convert_mode(image, "LA" if transparent else "L")
    opacity = _channel_tensor(image, "A") if transparent else None
    for band in image.getbands():
        if band != "A":
            colour = _channel_tensor(image, band)
            yield colour if opacity is None else colour.mul_(opacity).add_(1 - opacity)


def _convert_mode(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)


def _channel_tensor(image: Image.Image, band: str) -> Tensor:
    return torch.from_numpy(np.array(image.getchannel(band))).float().div_(255)


def _read_sixteen_bit(image: Image.Image) -> Tensor:
    """Returns the only channel, (height, width)."""
    values = np.array(image)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"pixels are {values.min()}..{values.max()}, beyond 16 bits (0..65535)")
    pixels = torch.from_numpy(values.astype(np.float32)).div_(65535)
    if (transparent := image.info.get("transparency")) is not None:
        pixels[torch.from_numpy(values == transparent)] = 1.0
    return pixels
