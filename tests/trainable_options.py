"""What it takes to train any option in a moment: settings, and data in the working directory."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
from PIL import Image

NEEDS = {
    "device=auto": ["device.threads=1"],
    "device=cpu": ["device.threads=1"],
    "freeze=by_name": ["freeze.names=['*1_1*']"],
    "freeze=gradual": ["freeze.stages=[{epoch: 1, names: ['*2_*']}]"],
    "param_groups=by_name": ["param_groups.rules=[{match: '*1_1*', lr: 0.5}]"],
    "scheduler=chained": ["scheduler.parts=[{option: constant, length: 1}, {option: cosine}]"],
    "warmup=linear": ["warmup.share=0.5"],
    "augment=randaugment": ["data=digits"],  # noise is no image
    "model=vgg": ["model.widths=[2,4]"],
    "model=resnet": ["model.widths=[2,4]"],
    "model=mlp": ["model.hidden=[4]"],
    "model=torchvision": ["model.name=mobilenet_v3_small", "data.channels=3", "data.size=32"],
    "model=timm": ["model.name=test_resnet", "data.size=32"],
    "data=digits": ["data.size=8", "data.train_size=16", "data.batch_size=8"],
    "data=digits_low": ["data.size=8", "data.train_size=16", "data.batch_size=8"],
    "data=digits_high": ["data.size=8", "data.train_size=16", "data.batch_size=8"],
    "data=image_folder": ["data.path=folder", "data.val=0.5", "data.size=8", "data.batch_size=4"],
    "data=arrays": ["data.path=arrays.npz", "data.val=0.5", "data.batch_size=4"],
    "data=cifar10": ["data.path=cifar10", "data.batch_size=10"],
}
"""What an option needs beyond its own file: names, a small size, files."""


def write(folder: Path) -> None:
    """Small data in every form that an option reads."""
    noise = np.random.default_rng(0)
    for index in range(8):
        images = folder / "folder" / ("cat" if index % 2 else "dog")
        images.mkdir(parents=True, exist_ok=True)
        pixels = noise.integers(0, 255, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(images / f"{index}.png")
    pixels = noise.integers(0, 255, (8, 8, 8), np.uint8)
    np.savez(folder / "arrays.npz", x=pixels, y=np.arange(8) % 2)
    (folder / "cifar10").mkdir()
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        pixels = noise.integers(0, 255, (4, 3072), np.uint8)
        batch = {"data": pixels, "labels": [0, 1, 2, 9]}
        (folder / "cifar10" / name).write_bytes(pickle.dumps(batch, protocol=4))
