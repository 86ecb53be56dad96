"""Image files to tensors, the same way for training and for prediction.

An image is a tensor (channels, height, width), float32, where black is 0 and white is 1.
`read_image` gives one at the size of its file, `fit` brings it to the size of the model's
input, `normalise` to its scale; always in this order.
"""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

from recipe.wording import printable

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")


class ImageError(ValueError):
    """A file is no image that can be read: "<path>: is not a readable image: <reason>"."""

    def __init__(self, path: Path, reason: str) -> None:
        self.reason = reason
        super().__init__(f"{printable(path)}: is not a readable image: {reason}")


def read_image(path: Path | str, *, channels: int) -> Tensor:
    """The image in a file, (channels, height, width), float32 in 0..1.

    One channel is luma (ITU-R 601), three are red, green and blue; gray is repeated. An 8-bit
    value v is exactly v / 255, a 16-bit gray one v / 65535. The picture is turned as its EXIF
    data says (if they can be read), transparency is laid over white, of several frames the first
    is taken, and colour profiles are ignored. Raises ImageError, also for an image so large
    (about 90 million pixels) that it may be an attack.
    """
    if channels not in (1, 3):
        raise ValueError(f"data.channels: image files are read with 1 or 3, not with {channels}")
    with opened(Path(path)) as image:
        _turn_upright(image)
        pixels = _sixteen_bit(image) if image.mode[0] == "I" else _eight_bit(image, channels)
    return pixels.expand(channels, -1, -1).contiguous()


def fit(images: Tensor, size: tuple[int, int]) -> Tensor:
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


@contextmanager
def opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """The image of a file whose head has been read. Raises ImageError, also for what the block
    raises."""
    try:
        if stat.S_IFMT(os.stat(path).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
            raise ValueError("it is a pipe or a device, not a file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about metadata that isn't used here
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                if image.mode == "F":
                    raise ValueError(
                        "floating-point pixels have no agreed white; save it with 8 or 16 bits"
                    )
                yield image
    except Exception as error:  # Pillow's decoders raise nearly every type there is
        raise ImageError(path, _reason(path, error)) from error


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        size = path.stat().st_size
        return f"none of {', '.join(FORMATS)}" if size else "the file is empty"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _turn_upright(image: Image.Image) -> None:
    image.load()
    with suppress(SyntaxError):  # EXIF data that can't be read say nothing
        ImageOps.exif_transpose(image, in_place=True)


def _eight_bit(image: Image.Image, channels: int) -> Tensor:
    if not image.has_transparency_data:
        image = image.convert("RGB")
        return _channels_first(image.convert("L") if channels == 1 else image)
    image = image.convert("RGBA")
    layers = _channels_first(image.convert("LA") if channels == 1 else image)
    colour, opacity = layers[:-1], layers[-1:]
    return colour * opacity + (1 - opacity)


def _channels_first(image: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.array(image)).reshape(image.height, image.width, -1)
    return pixels.permute(2, 0, 1).contiguous().float().div_(255)


def _sixteen_bit(image: Image.Image) -> Tensor:
    values = np.array(image)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"pixels in {values.min()}..{values.max()}; 16 bits hold 0..65535")
    pixels = torch.from_numpy(values.astype(np.float32)).div_(65535)
    if (transparent := image.info.get("transparency")) is not None:
        pixels[torch.from_numpy(values == transparent)] = 1.0
    return pixels[None]
