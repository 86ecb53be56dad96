"""A folder of images in two classes, and ways to damage a file in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

NOISE = np.random.default_rng(0).integers(0, 256, (31, 20, 24, 3), np.uint8)


def halve(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def spoil(file: Path) -> None:
    """Damage in the middle of a .png, which neither its head nor its end shows."""
    content = bytearray(file.read_bytes())
    content[200:400] = bytes(200)
    file.write_bytes(content)


def write_pets(root: Path) -> Path:
    """Ten cats and ten dogs, half of them .png and half .jpg."""
    for number in range(20):
        file = root / ("cat" if number < 10 else "dog") / f"{number}.{('png', 'jpg')[number % 2]}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(NOISE[number]).save(file)
    return root
