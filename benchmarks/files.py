"""Images in files: memory, start-up and speed against their number and that of the workers.

    python benchmarks/files.py [files=1000,10000,100000] [workers=0,1,2]

Writes JPEGs of 64 x 48 pixels into a temporary folder (2.4 KiB each, 16 different ones). Each line
is a process of its own. `start s` is the processor time until the data are made: list, check of
every head and end, digest. `MiB then` is the most memory that the process has held by then beyond
what it had before, `MiB epoch` the same after an epoch of 5,000 images at most, in batches of 64,
brought to 32 x 32, and `MiB worker` what the largest worker has for itself alone near the end of
that epoch. `images/s` is of the epoch by the clock, the start of the workers included.

2026-11, AMD EPYC, 2 cores that others used as well, so `images/s` are no more than a rough measure:

       files workers  start s  MiB then  MiB epoch  MiB worker  images/s
        1000       0      0.2        13         20           0      1756
        1000       2      0.2        13         14          15      2526
       10000       0      1.8        19         23           0      1618
       10000       2      2.1        19         21          40      1376
      100000       0     22.6        85         85           0      1340
      100000       1     20.2        85         85          23      1315
      100000       2     22.2        84         84          18      2507
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ONE = """
import resource, sys, time
import psutil, torch
from recipe.components.data.image_folder import image_folder

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

root, workers = sys.argv[1], int(sys.argv[2])
before, began = peak(), time.process_time()
data = image_folder(
    torch.Generator().manual_seed(0), path=root, val=0.01, size=32, channels=3, workers=workers,
    mean=[0.5] * 3, std=[0.5] * 3, on_bad_file="stop", slow_after=10.0,
    max_pixels=10**6,
)
started, made = time.process_time() - began, peak() - before
order = torch.randperm(len(data.train))[:5000]
batches, own = order.split(64), 0
began = time.perf_counter()
for done, _ in enumerate(data.train.batches(batches), 1):
    if done == max(1, len(batches) - 5):
        children = psutil.Process().children()
        own = max([each.memory_full_info().uss for each in children], default=0)
speed = len(order) / (time.perf_counter() - began)
print(f"{started:8.1f} {made:9.0f} {peak() - before:10.0f} {own / 2**20:11.0f} {speed:9.0f}")
"""


def main(arguments: list[str]) -> None:
    given = {"files": "1000,10000,100000", "workers": "0,1,2"}
    given |= dict(argument.split("=") for argument in arguments)
    print("   files workers  start s  MiB then  MiB epoch  MiB worker  images/s", flush=True)
    for number in map(int, given["files"].split(",")):
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), number)
            for workers in given["workers"].split(","):
                done = subprocess.run(
                    [sys.executable, "-c", ONE, folder, workers],
                    capture_output=True, text=True, check=True,
                )  # fmt: skip
                print(f"{number:8} {workers:>7} {done.stdout.rstrip()}", flush=True)


def write(folder: Path, number: int) -> None:
    noise, pictures = np.random.default_rng(0), []
    for _ in range(16):
        stream = io.BytesIO()
        Image.fromarray(noise.integers(0, 256, (48, 64, 3), np.uint8)).save(stream, "JPEG")
        pictures.append(stream.getvalue())
    for label in range(10):
        (folder / f"class{label}").mkdir()
    for index in range(number):
        file = folder / f"class{index % 10}" / f"{index:06}.jpg"
        file.write_bytes(pictures[index % 16])


if __name__ == "__main__":
    main(sys.argv[1:])
