"""CIFAR-10 as its files store it: twelve images, two in each file."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

NAMES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]

# Two images a file: image n (0 to 11) has the label n % 10, and is n all over in red, 100 in
# green, and 255 in the first row of blue.
PIXELS = np.zeros((12, 3, 32, 32), np.uint8)
PIXELS[:, 0] = np.arange(12)[:, None, None]
PIXELS[:, 1] = 100
PIXELS[:, 2, 0] = 255
LABELS = [number % 10 for number in range(12)]


def binary(folder: Path) -> Path:
    for index, name in enumerate(NAMES):
        rows = range(2 * index, 2 * index + 2)
        records = [bytes([LABELS[row]]) + PIXELS[row].tobytes() for row in rows]
        (folder / f"{name}.bin").write_bytes(b"".join(records))
    return folder


def pickled(folder: Path) -> Path:
    for index, name in enumerate(NAMES):
        rows = slice(2 * index, 2 * index + 2)
        batch = {"data": PIXELS[rows].reshape(2, 3072), "labels": LABELS[rows]}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=4))
    return folder
