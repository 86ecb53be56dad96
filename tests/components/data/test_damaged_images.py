"""Broken images and settings as users meet them: named, counted, never a traceback."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import commands
import numpy as np
import pytest
import torch
from cifar10_files import binary
from damaged_images import NOISE, halve, spoil, write_pets
from PIL import Image

from recipe.components.data.image_folder import image_folder
from recipe.errors import SpecError

TINY = (*commands.CPU, "epochs=1", "model.widths=[2,4]", "tracking=none")


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return write_pets(tmp_path / "pets")


def photos(root: Path) -> tuple[str, ...]:
    """Sixteen of the twenty train, in one batch."""
    options = ("data.size=8", "data.val=0.2", "data.batch_size=16")
    return (*TINY, "data=image_folder", f"data.path={root}", *options)


def test_unreadable_images_are_counted_and_first_ones_named(tmp_path: Path, pets: Path) -> None:
    (pets / "cat" / "0.png").write_bytes(b"")
    halve(pets / "cat" / "1.jpg")
    (pets / "cat" / "2.png").write_text("not an image")
    (pets / "dog" / "12.png").unlink()
    (pets / "dog" / "12.png").symlink_to("nowhere.png")
    (pets / "dog" / "14.png").unlink()
    os.mkfifo(pets / "dog" / "14.png")  # reading it would wait for ever
    (problem,) = commands.rejected(tmp_path, *photos(pets))
    assert problem.startswith(
        f"data.path: 5 of 20 images in {pets} can't be read: cat/0.png (the file is empty), "
        "cat/1.jpg ("
    )
    assert problem.endswith(
        "cat/2.png (none of PNG, JPEG, BMP, GIF, TIFF, WEBP, PPM, HEIC) and 2 more; repair or "
        "remove them, or skip them: data.on_bad_file=skip"
    )


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "bmp", "tif", "ppm"])
def test_truncated_image_is_rejected_before_training_and_intact_passes(
    tmp_path: Path, pets: Path, suffix: str
) -> None:
    file = pets / "cat" / f"more.{suffix}"
    Image.fromarray(NOISE[30]).resize((200, 160)).save(file)
    assert commands.run(tmp_path, "plan", *photos(pets)).status == 0
    file.write_bytes(file.read_bytes()[:-600])
    (problem,) = commands.rejected(tmp_path, *photos(pets))
    assert problem.startswith(f"data.path: 1 of 21 images in {pets} can't be read: cat/more.")


def test_all_image_folder_problems_are_reported_together(tmp_path: Path, pets: Path) -> None:
    (pets / "cat" / "0.png").write_bytes(b"")
    (pets / "cat" / "IMG_1.HEIC").write_bytes(b"from a phone")
    (pets / "dog" / ".ipynb_checkpoints").mkdir()
    shutil.copy(pets / "dog" / "10.png", pets / "dog" / ".ipynb_checkpoints" / "10-checkpoint.png")
    shutil.copy(pets / "dog" / "10.png", pets / "stray.png")
    (pets / "emu").mkdir()
    (pets / "emu" / "notes.txt").write_text("to be drawn")
    (pets / "fox").mkdir()
    os.rename(os.fsencode(pets / "cat" / "2.png"), os.fsencode(pets / "cat") + b"/\xff.png")
    overrides = ("data.mean=[0.5]", "clip=norm", "clip.max_norm=-1")
    unread, hidden, stray, names, empty = (f"data.path: {line}" for line in (
        f"2 of 23 images in {pets} can't be read: cat/0.png (the file is empty), cat/IMG_1.HEIC "
        "(none of PNG, JPEG, BMP, GIF, TIFF, WEBP, PPM, HEIC); repair or remove them, or skip "
        "them: data.on_bad_file=skip",
        f"1 of 23 images in {pets} are hidden: dog/.ipynb_checkpoints/10-checkpoint.png; "
        "remove or rename them",
        f"1 of 23 images in {pets} are in no class folder: stray.png; move them into one",
        f"1 of 23 images in {pets} have names that aren't Unicode: cat/\\udcff.png; rename them",
        "2 of 4 class folders without an image: emu (holds notes.txt), fox (empty); "
        f"fill or remove them (in {pets})",
    ))  # fmt: skip
    clip, mean, *others = commands.rejected(tmp_path, *photos(pets), *overrides)
    assert mean.startswith("data.mean must have one value per channel, got [0.5]")
    assert others == [unread, hidden, stray, names, empty]
    assert clip.startswith("clip.max_norm")


def test_classes_missing_from_one_part_are_counted_and_named(tmp_path: Path, pets: Path) -> None:
    for part, classes in (("train", "abcd"), ("val", "aef")):
        for name in classes:
            shutil.copytree(pets / "cat", tmp_path / "parts" / part / name)
    assert commands.rejected(tmp_path, *photos(tmp_path / "parts"), "data.val=null") == [
        f"data.path: {line}; all splits need the same classes (in {tmp_path / 'parts'})"
        for line in (
            "3 of the 4 classes in train/ are missing from val/: b, c, d",
            "2 of the 3 classes in val/ are missing from train/: e, f",
        )
    ]


def test_classes_with_too_few_images_for_validation_are_counted(tmp_path: Path, pets: Path) -> None:
    for name in ("emu", "fox"):
        (pets / name).mkdir()
        shutil.copy(pets / "cat" / "0.png", pets / name)
    assert commands.rejected(tmp_path, *photos(pets)) == [
        "data.val: 0.2 of the 1 samples of class emu rounds to 0, which leaves none to validate on "
        "(also for 1 more classes); add samples, or leave the class out"
    ]


def test_circular_link_is_rejected_and_other_link_is_followed(tmp_path: Path, pets: Path) -> None:
    shutil.move(pets / "cat", tmp_path / "elsewhere")
    (pets / "cat").symlink_to(tmp_path / "elsewhere")
    assert "16 training and 4 validation" in commands.run(tmp_path, "plan", *photos(pets)).out
    (tmp_path / "elsewhere" / "back").symlink_to(pets)
    (problem,) = commands.rejected(tmp_path, *photos(pets))
    assert problem == (f"data.path: {pets}/cat/back is a link to a folder above it; remove it")


@pytest.mark.parametrize("locked", ["cat", "cat/0.png", "."])
def test_paths_without_read_permission_are_reported(pets: Path, locked: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = shutil.copytree(pets, Path(folder) / "pets")
        Path(folder).chmod(0o755)
        (root / locked).chmod(0)
        try:
            with unprivileged(), pytest.raises(SpecError) as caught:
                image_folder(
                    torch.Generator(), path=str(root), val=0.2, size=4, channels=3, workers=0,
                    mean=[0.0] * 3, std=[1.0] * 3, on_bad_file="stop", slow_after=10.0,
                    max_pixels=10**6,
                )  # fmt: skip
        finally:
            (root / locked).chmod(0o755)
    (problem,) = caught.value.problems
    assert problem.startswith("data.path: ") and "Permission denied" in problem
    assert locked in problem


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """As a user who may not read everything, even where tests run as root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_unusual_but_valid_photographs_are_accepted(tmp_path: Path, pets: Path) -> None:
    cats = pets / "cat"
    Image.new("RGB", (1, 1)).save(cats / "dot.png")
    Image.new("RGB", (1, 20_000)).save(cats / "hair.png")
    Image.new("CMYK", (30, 30)).save(cats / "print.jpg")
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(cats / "deep.png")
    frames = [Image.new("L", (9, 9), value) for value in (0, 255)]
    frames[0].save(cats / "film.gif", save_all=True, append_images=frames[1:])
    Image.new("RGB", (9, 9)).save(cats / "exif.png", exif=b"Exif\0\0no such thing")
    (cats / "a photo.png").mkdir()
    shutil.copy(cats / "1.jpg", cats / "in truth a jpeg.png")
    with (cats / "trailer.jpg").open("wb") as file:
        file.write((cats / "1.jpg").read_bytes() + bytes(range(256)))  # as some phones do
    done = commands.run(tmp_path, *photos(pets))
    assert (done.status, done.err) == (0, "")
    assert "22 training and 6 validation samples" in done.out


def test_images_found_damaged_in_training_fail_the_run_in_one_line(
    tmp_path: Path, pets: Path
) -> None:
    for number in (12, 14, 16, 18):
        spoil(pets / "dog" / f"{number}.png")
    done = commands.run(tmp_path, *photos(pets))
    (problem,) = done.problems
    assert done.status == 1
    assert " of a batch's images in " in problem and "can't be read: dog/1" in problem
    assert problem.endswith(
        "; repair or remove them, and start again, or skip them: data.on_bad_file=skip"
    )
    (run,) = commands.run_dirs(tmp_path)
    assert commands.read_json(run / "run.json")["status"] == "FAILED"


VANISH = """
import pathlib, shutil, torch

def vanish(params, *, folder: str):
    shutil.rmtree(folder, ignore_errors=True)
    return torch.nn.utils.get_total_norm([p.grad for p in params])
"""


@pytest.mark.parametrize("workers", [0, 1])
def test_files_removed_during_training_are_reported(
    tmp_path: Path, pets: Path, workers: int
) -> None:
    commands.project(tmp_path, {
        "mine.py": VANISH,
        "conf/clip/vanish.yaml": "# Removes a folder.\n_target_: mine.vanish\nfolder: ''  # it\n",
    })  # fmt: skip
    done = commands.run(
        tmp_path, *photos(pets), "trust=[mine]", "clip=vanish", f"clip.folder={pets / 'dog'}",
        "data.batch_size=2", f"data.workers={workers}",
    )  # fmt: skip
    (problem,) = done.problems
    assert done.status == 1
    assert ".png (No such file or directory)" in problem or ".jpg (No such file" in problem
    (run,) = commands.run_dirs(tmp_path)
    assert commands.read_json(run / "run.json")["status"] == "FAILED"


KILL = """
import multiprocessing, time, torch

def kill(params):
    workers = multiprocessing.active_children()
    for worker in workers:
        worker.kill()
    for _ in range(3000 if workers else 0):  # torch tells of it here, in the midst of a step
        time.sleep(0.01)
    return torch.nn.utils.get_total_norm([p.grad for p in params])
"""


def test_killed_data_worker_fails_run_with_one_line_error(tmp_path: Path, pets: Path) -> None:
    option = "# Kills whoever reads images.\n_target_: mine.kill\n"
    commands.project(tmp_path, {"mine.py": KILL, "conf/clip/kill.yaml": option})
    done = commands.run(
        tmp_path, *photos(pets), "trust=[mine]", "clip=kill", "data.batch_size=2", "data.workers=1"
    )
    (problem,) = done.problems
    assert done.status == 1
    assert problem.startswith("recipe: data.workers: one of 1 died while it read images (DataLo")
    assert "is killed by signal: Killed" in problem and problem.endswith("; use fewer workers")
    (run,) = commands.run_dirs(tmp_path)
    assert commands.read_json(run / "run.json")["status"] == "FAILED"


def test_sweep_on_damaged_data_is_rejected_once(tmp_path: Path, pets: Path) -> None:
    halve(pets / "cat" / "1.jpg")
    done = commands.sweep(tmp_path, "-m", *photos(pets), "seed=0,1")
    (problem,) = done.problems
    assert done.status == 2 and problem.startswith("recipe: data.path: 1 of 20 images in")
    assert not commands.run_dirs(tmp_path)


@pytest.mark.parametrize(
    ("option", "key"),
    [
        (("data.size=200000",), "data.size: needs "),
        (("data=random", "data.n_train=1000000000000"), "data.n_train: needs "),
    ],
)
def test_settings_exceeding_available_memory_are_rejected(
    tmp_path: Path, option: tuple[str, ...], key: str
) -> None:
    for verb in (["plan"], []):  # each tells how much is free at its time
        done = commands.run(tmp_path, *verb, *TINY, *option)
        (problem,) = done.problems
        assert done.status == 2 and not (tmp_path / "outputs").exists()
        assert problem.startswith(f"recipe: {key}") and " GiB of memory, and " in problem


def test_mean_on_byte_scale_is_rejected(tmp_path: Path, pets: Path) -> None:
    (problem,) = commands.rejected(tmp_path, *photos(pets), "data.mean=[123.7,116.3,103.5]")
    assert problem.startswith("data.mean[0] must be less than or equal to 1, got 123.7")


def test_every_damaged_cifar_file_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "cifar"
    folder.mkdir()
    binary(folder)
    options = (*TINY, "data=cifar10", f"data.path={folder}", "data.batch_size=2")
    halve(folder / "data_batch_2.bin")  # one whole image is left of two
    assert commands.rejected(tmp_path, *options) == [
        f"data.path: {folder}/data_batch_2.bin has 1 image, others 2; it was truncated, unpack it "
        "again"
    ]
    (folder / "data_batch_3.bin").write_bytes(b"")
    (folder / "data_batch_4.bin").write_bytes(b"\x0a" + bytes(3072) + b"\x0b" + bytes(3072))
    assert commands.rejected(tmp_path, *options) == [
        f"data.path: {folder}/data_batch_3.bin is empty; unpack it again",
        f"data.path: {folder}/data_batch_4.bin is not a CIFAR-10 batch: 2 of its 2 labels are "
        "beyond 0..9; unpack it again",
    ]
