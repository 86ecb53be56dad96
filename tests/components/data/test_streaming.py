"""Data larger than memory: the same bits whatever the number of workers, after a kill as well, and
no more memory for more files.

The long form, `pytest -m long tests/components/data/test_streaming.py`, has 100,000 files.
"""

from __future__ import annotations

import io
import signal
import sys
import time
from pathlib import Path

import commands
import numpy as np
import psutil
import pytest
from PIL import Image
from run_equality import alike, finished

from recipe.components.data.image_files import PackedPaths

RUN = (
    *commands.CPU, "tracking=none", "model.widths=[2,4]", "model.dropout=0.2", "epochs=2",
    "data=image_folder", "data.path=images", "data.size=8", "data.val=0.25", "data.batch_size=4",
    "data.eval_batch_size=5", "augment=flip_crop", "checkpoint.per=step", "checkpoint.every=1",
)  # fmt: skip
"""30 images to train on, in 8 batches an epoch, the last of which is of two."""


def write(folder: Path, number: int, size: tuple[int, int] = (12, 10)) -> None:
    """So many images in two classes, of 16 pictures."""
    noise, pictures = np.random.default_rng(0), []
    for _ in range(16):
        stream = io.BytesIO()
        Image.fromarray(noise.integers(0, 256, (*size, 3), np.uint8)).save(stream, "JPEG")
        pictures.append(stream.getvalue())
    for name in ("cat", "dog"):
        (folder / "images" / name).mkdir(parents=True)
    for index in range(number):
        name = f"{'cat' if index % 2 else 'dog'}/{index:06}.jpg"
        (folder / "images" / name).write_bytes(pictures[index % 16])


@pytest.mark.integration
@pytest.mark.usefixtures("torchvision")
@pytest.mark.parametrize("augment", ["flip_crop", "randaugment"])
def test_number_of_data_workers_does_not_change_results(tmp_path: Path, augment: str) -> None:
    ends = []
    for workers in (0, 1, 3):
        write(tmp_path / str(workers), 40)
        options = [text for text in RUN if not text.startswith("augment=")]
        done = commands.run(
            tmp_path / str(workers), *options, f"augment={augment}", f"data.workers={workers}"
        )
        assert (done.status, done.err) == (0, "")
        ends.append(finished(tmp_path / str(workers)))
    alike(ends[0], ends[1])
    alike(ends[0], ends[2])


WAITS = """
import os, time, torch

def waits(params):
    if os.path.exists("wait"):
        time.sleep(0.3)
    return torch.nn.utils.get_total_norm([p.grad for p in params])
"""


@pytest.mark.integration
@pytest.mark.long
def test_mid_epoch_kill_with_data_workers_gives_identical_results(tmp_path: Path) -> None:
    options = (*RUN, "data.workers=2", "trust=[mine]", "clip=waits")
    for name in ("calm", "killed"):
        folder = commands.project(
            tmp_path / name, {"mine.py": WAITS, "conf/clip/waits.yaml": "_target_: mine.waits\n"}
        )
        write(folder, 40)
    folder = tmp_path / "killed"
    (folder / "wait").touch()
    started = commands.start(folder, *options)
    steps = 0
    while steps < 3:
        assert started.poll() is None, started.communicate()
        found = list(folder.glob("outputs/runs/*/metrics.jsonl"))
        steps = found[0].read_text().count("train/loss") if found else 0
        time.sleep(0.02)
    workers = psutil.Process(started.pid).children(recursive=True)
    started.send_signal(signal.SIGKILL)
    started.communicate(timeout=60)
    assert len(workers) == 2 and not psutil.wait_procs(workers, timeout=60)[1]  # none lives on
    (folder / "wait").unlink()
    for name in ("calm", "killed"):
        assert commands.run(tmp_path / name, *options).status == 0
    (killed,) = commands.run_dirs(folder)
    lines = commands.read_lines(killed / "events.jsonl")
    assert [line["kind"] for line in lines].count("resumed") == 1
    alike(finished(tmp_path / "calm"), killed)


def test_packed_paths_return_the_original_names() -> None:
    names = PackedPaths(["cat/1.png", "", "hund/ä ö.jpg", Path("dog") / "2.png"])
    assert list(names) == ["cat/1.png", "", "hund/ä ö.jpg", "dog/2.png"]
    assert names[-1] == "dog/2.png" and names[1:3] == ["", "hund/ä ö.jpg"] and len(names) == 4
    with pytest.raises(IndexError):
        names[4]


PEAK = """
import resource, sys, time, torch
from pathlib import Path
from recipe.components.data.image_folder import image_folder

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

before, began = peak(), time.process_time()
data = image_folder(
    torch.Generator().manual_seed(0), path="images", val=0.01, size=32, channels=3,
    workers=int(sys.argv[1]), mean=[0.5] * 3, std=[0.5] * 3, on_bad_file="stop", slow_after=10.0,
    max_pixels=10**6,
)
started, seconds = peak(), time.process_time() - began
read = 0
for inputs, targets in data.train.batches(torch.randperm(len(data.train)).split(64)):
    read += len(targets)
assert read == len(data.train)
print(started - before, peak() - before, seconds)
"""


@pytest.mark.integration
@pytest.mark.long
def test_memory_for_100_000_files_grows_by_less_than_150_mib(tmp_path: Path) -> None:
    found = {}
    for number in (1_000, 100_000):
        write(tmp_path / str(number), number)
        done = commands.spawn(tmp_path / str(number), "-c", PEAK, "0", program=(sys.executable,))
        assert done.status == 0, done.err
        started, peak, seconds = map(float, done.out.split())
        print(
            f"\\n{number:,} files: {started:.0f} MiB and {seconds:.1f} s to start, "
            f"{peak:.0f} MiB after an epoch"
        )
        found[number] = peak
    # 100,000 images of 32 x 32 would be 1,172 MiB
    assert found[100_000] - found[1_000] < 150
