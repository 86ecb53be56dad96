"""Image files to tensors, the same way for training and for prediction.

An image is a tensor (channels, height, width), float32, where black is 0 and white is 1.
`read_image` gives one at the size of its file, `fit` brings it to the size of the model's
input, `normalise` to its scale; always in this order.
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

from recipe.formatting import escape_unprintable
from recipe.nn.optional_imports import import_optional

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")

HEIF_BRANDS = frozenset((
    b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1",
))  # fmt: skip
"""What a file of an iPhone's or another HEIF photograph says it is, after "ftyp"."""


class ImageError(ValueError):
    """A file is no image that can be read: "<path>: is not a readable image: <reason>"."""

    def __init__(self, path: Path, reason: str) -> None:
        self.reason = reason
        super().__init__(f"{escape_unprintable(path)}: is not a readable image: {reason}")


def read_image(path: Path | str, *, channels: int, max_pixels: int | None = None) -> Tensor:
    """The image in a file, (channels, height, width), float32 in 0..1.

    One channel is luma (ITU-R 601), three are red, green and blue; gray is repeated. An 8-bit
    value v is exactly v / 255, a 16-bit gray one v / 65535. The picture is turned as its EXIF
    data says (if they can be read), transparency is laid over white, of several frames the first
    is taken, and colour profiles are ignored. A JPEG of more than `max_pixels` pixels is decoded
    at a half, a quarter or an eighth of its size, the largest that has no more, unless it is
    progressive, which would save no memory. Raises ImageError, also for any other image of more
    pixels (None: about 90 million, Pillow's own limit).
    """
    return _read_channels(path, channels, max_pixels, lambda plane: plane)


def read_resized_image(
    path: Path | str, *, channels: int, size: tuple[int, int], max_pixels: int | None
) -> Tensor:
    """fit(read_image(...), size) to the last bit, in less memory: of the image as floats only one
    channel is held at a time."""
    return _read_channels(path, channels, max_pixels, lambda plane: crop_and_resize(plane, size))


def _read_channels(
    path: Path | str, channels: int, max_pixels: int | None, each: Callable[[Tensor], Tensor]
) -> Tensor:
    if channels not in (1, 3):
        raise ValueError(f"data.channels: image files are read with 1 or 3, not with {channels}")
    with open_image(Path(path), max_pixels) as image:
        _apply_exif_orientation(image)
        sixteen_bit = image.mode[0] == "I"
        planes = (
            iter([_read_sixteen_bit(image)]) if sixteen_bit else _read_eight_bit(image, channels)
        )
        pixels = torch.cat([each(plane[None]) for plane in planes])
    return pixels.expand(channels, -1, -1).contiguous()


def crop_and_resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (..., channels, h, w) brought to `size` = (height, width); values stay in 0..1.

    The largest centred part with the shape of `size` is cut out and resized: bilinear, pixel
    centres aligned (not corners), antialiased where it shrinks. An image that already has the
    size comes back as it is. This cuts before it resizes, where torchvision's Resize and
    CenterCrop resize first: the same up to rounding to whole pixels, and cheap for any shape.
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
    """(images - mean) / std per channel, for images (..., channels, height, width)."""
    return (images - torch.tensor(mean)[:, None, None]).div_(torch.tensor(std)[:, None, None])


def normalise_bytes(images: Tensor, *, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """As normalise, for images (..., channels, height, width) uint8, where 255 is white."""
    return normalise(images.float().div_(255), mean=mean, std=std)


def channel_mean_and_std(inputs: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of images (n, channels, height, width).

    Both are on the scale where black is 0 and white is 1; in uint8 images, white is 255.
    """
    mean, std = [], []
    for channel in inputs.unbind(1):
        if channel.dtype == torch.uint8:  # by counting: exact, and without a copy as floats
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
    """The image of a file whose head has been read. Raises ImageError, also for what the block
    raises."""
    try:
        if stat.S_IFMT(os.stat(path).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
            raise ValueError("it is a pipe or a device, not a file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about metadata that isn't used here
            warnings.simplefilter(
                "error" if max_pixels is None else "ignore", Image.DecompressionBombWarning
            )
            with _open_with_pillow(path) as image:
                if image.mode == "F":
                    raise ValueError(
                        "floating-point pixels have no agreed white; save it with 8 or 16 bits"
                    )
                if max_pixels is not None:
                    _limit_pixels(image, max_pixels)
                yield image
    except Exception as error:  # Pillow's decoders raise nearly every type there is
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
    """Has a JPEG of more pixels decoded at less than its size. Raises ValueError where that can't
    be done."""
    width, height = image.size
    if width * height <= max_pixels:
        return
    if image.format in ("JPEG", "MPO") and "progressive" not in image.info:
        for scale in (2, 4, 8):
            if -(-width // scale) * -(-height // scale) <= max_pixels:
                image.draft(None, (width // scale, height // scale))
                return
    raise ValueError(f"its {width} x {height} pixels are more than data.max_pixels={max_pixels}")


def _describe_error(path: Path, error: Exception, max_pixels: int | None) -> str:
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        pixels, *limit = re.findall(r"\d+", str(error))  # the size itself isn't said
        most = f"Pillow's limit of {limit[0]}" if max_pixels is None else f"data.{max_pixels=}"
        return f"its {pixels} pixels are more than {most}"
    if isinstance(error, UnidentifiedImageError):
        size = path.stat().st_size
        heic = ["HEIC"] if find_spec("pillow_heif") else []
        return f"none of {', '.join([*FORMATS, *heic])}" if size else "the file is empty"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _apply_exif_orientation(image: Image.Image) -> None:
    image.load()
    with suppress(SyntaxError):  # EXIF data that can't be read say nothing
        ImageOps.exif_transpose(image, in_place=True)


def _read_eight_bit(image: Image.Image, channels: int) -> Iterator[Tensor]:
    """Each channel, (height, width)."""
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
    """The one channel, (height, width)."""
    values = np.array(image)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"pixels in {values.min()}..{values.max()}; 16 bits hold 0..65535")
    pixels = torch.from_numpy(values.astype(np.float32)).div_(65535)
    if (transparent := image.info.get("transparency")) is not None:
        pixels[torch.from_numpy(values == transparent)] = 1.0
    return pixels
