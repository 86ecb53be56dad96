import contextlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from recipe.components.data import Data
from recipe.components.data.image_folder import image_folder
from recipe.components.data.image_reading import crop_and_resize, normalise, read_image
from recipe.errors import DataError, SpecError

in_tmp_path = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


def add(root: Path, *names: str) -> Path:
    """Write an image under each name; the n-th is n all over."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (6, 4), number).save(root / name)
    return root


def pets(root: Path) -> Path:
    """Five dogs, then ten cats."""
    names = [f"dog/{index}.png" for index in range(5)] + [f"cat/{index}.png" for index in range(10)]
    return add(root / "pets", *names)


def made(path: Path | None, seed: int = 0, **changed: Any) -> Data:
    chosen: dict[str, Any] = {"val": 0.2, "size": 4, "channels": 1, "workers": 0}
    chosen |= {"on_bad_file": "stop", "slow_after": 10.0, "max_pixels": 5 * 10**7}
    chosen |= {"mean": [0.0], "std": [1.0]} | changed
    path_setting = None if path is None else str(path)
    return image_folder(torch.Generator().manual_seed(seed), path=path_setting, **chosen)


def everything(data: Data, part: str = "train") -> tuple[list[int], list[int]]:
    """The number that each image of a part is filled with, and its target."""
    split = getattr(data, part)
    ((inputs, targets),) = split.batches([torch.arange(len(split))])
    assert torch.equal(targets, split.targets) and targets.dtype == torch.int64
    return (inputs[:, 0, 0, 0] * 255).round().int().tolist(), targets.tolist()


def test_split_holds_out_fraction_of_each_class_and_keeps_labels(tmp_path: Path) -> None:
    data = made(pets(tmp_path))
    (train, train_targets), (val, val_targets) = everything(data), everything(data, "val")
    assert data.classes == ("cat", "dog") and val_targets == [0, 0, 1]
    assert sorted(train + val) == list(range(15))
    assert train_targets + val_targets == [int(number < 5) for number in train + val]
    assert everything(made(tmp_path / "pets")) == (train, train_targets)
    assert (
        len({tuple(everything(made(tmp_path / "pets", seed), "val")[0]) for seed in range(9)}) > 1
    )


def test_image_folder_with_given_splits_is_kept_unchanged(tmp_path: Path) -> None:
    names = [
        "train/b/1.png",
        "train/a/1.png",
        "train/a/deep/er/2.JPG",
        "val/a/1.png",
        "val/b/7.png",
    ]
    data = made(add(tmp_path, *names), val=None)
    assert everything(data) == ([1, 2, 0], [0, 0, 1])
    assert everything(data, "val") == ([3, 4], [0, 1])
    assert data.test is None
    data = made(add(tmp_path, "test/a/1.png", "test/b/1.png"), val=None)
    assert everything(data, "test") == ([0, 1], [0, 1])


def test_training_image_is_preprocessed_as_in_predict(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
    add(tmp_path, "a/1.png", "b/1.png", "b/2.png")
    Image.fromarray(pixels).save(tmp_path / "a" / "2.png")
    look: dict[str, Any] = {"mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3]}
    data = made(tmp_path, val=0.5, size=8, channels=3, **look)
    assert (data.channels, data.size) == (3, (8, 8))
    assert (data.mean, data.std) == ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    inputs = torch.cat(
        [next(iter(p.batches([torch.arange(2)])))[0] for p in (data.train, data.val)]
    )
    image = crop_and_resize(read_image(tmp_path / "a" / "2.png", channels=3), (8, 8))
    expected = normalise(image, **look)
    assert expected.shape == (3, 8, 8) and inputs.dtype == torch.float32
    assert any(torch.equal(given_to_the_model, expected) for given_to_the_model in inputs)


@in_tmp_path
@given(batches=st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=5), max_size=4))
def test_batches_hold_exactly_requested_samples_in_order(
    tmp_path: Path, batches: list[list[int]]
) -> None:
    root = tmp_path / "pets"
    data = made(root if root.exists() else pets(tmp_path))
    numbers, targets = everything(data)
    served = list(data.train.batches(torch.tensor(batch) for batch in batches))
    assert len(served) == len(batches)
    for indices, (images, labels) in zip(batches, served, strict=True):
        found = (images[:, 0, 0, 0] * 255).round().int().tolist()
        assert found == [numbers[index] for index in indices]
        assert labels.tolist() == [targets[index] for index in indices]


def test_data_workers_give_identical_batches_and_one_line_errors(tmp_path: Path) -> None:
    order = [torch.tensor([index, 11 - index]) for index in range(12)]
    root = pets(tmp_path)
    alone, helped = made(root), made(root, workers=2)
    assert alone.digest == helped.digest
    for one, two in zip(alone.train.batches(order), helped.train.batches(order), strict=True):
        assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])
    for file in (root / "cat").iterdir():
        file.write_bytes(b"gone")
    for data in (alone, helped):
        with pytest.raises(
            DataError,
            match=r"^data\.path: (\d|all) of a batch's images in .*: cat/\d\.png \(none of .*$",
        ) as error:
            list(data.train.batches(order))
        assert "\n" not in str(error.value)


def test_killed_data_worker_raises_data_error(tmp_path: Path) -> None:
    batches = made(pets(tmp_path), workers=1).train.batches(torch.arange(12).split(1))
    next(batches)
    with pytest.raises(RuntimeError, match="is killed by signal"):  # torch tells it wherever we are
        for worker in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess):  # some other test's
                worker.kill()
        time.sleep(30)
    with pytest.raises(
        DataError, match=r"^data\.workers: one of 1 died while .*; use fewer workers$"
    ):
        list(batches)


def test_image_folder_does_not_use_the_global_torch_generator(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    everything(made(pets(tmp_path)))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_image_folder_digest_depends_on_content_but_not_on_location(tmp_path: Path) -> None:
    root = pets(tmp_path)
    first = made(root).digest
    assert made(pets(tmp_path / "elsewhere")).digest == first
    variants = [
        made(root, seed=1),
        made(root, val=0.4),
        made(root, size=5),
        made(root, channels=3, mean=[0.0] * 3, std=[1.0] * 3),
        made(root, std=[2.0]),
    ]
    (root / "cat" / "0.png").rename(root / "cat" / "00.png")
    variants.append(made(root))
    Image.new("L", (6, 4), 99).save(root / "cat" / "00.png")
    variants.append(made(root))
    assert len({first, *(data.digest for data in variants)}) == 8


def test_files_without_an_image_extension_are_ignored(tmp_path: Path) -> None:
    root = pets(tmp_path)
    for name in ("README.md", "cat/.DS_Store", "dog/labels.csv", ".git/config"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("text")
    assert made(root).digest == made(pets(tmp_path / "clean")).digest


@pytest.mark.parametrize(
    ("names", "changed", "message"),
    [
        ([], {}, r"data\.path: at least two class folders are needed, there is none; add some \("),
        (["a/1.png"], {}, r"data\.path: at least two .* are needed, there is only a; add some \("),
        (
            ["a/1.png", "b/"],
            {},
            r"data\.path: 1 of 2 class folders without an image: b \(empty\); fill ",
        ),
        (["a/1.png", "b/1.png"], {}, r"data\.val: 0\.2 of the 1 samples of class a rounds to 0"),
        (["a/1.png", "b/1.png"], {"val": None}, r"data\.val: null needs .* data\.val=0\.2"),
        (
            ["1.png", "a/1.png"],
            {},
            r"data\.path: 1 of 2 images in .* are in no class folder: 1\.png; move",
        ),
        (
            ["a/1.png", "b/.2.png"],
            {},
            r"data\.path: 1 of 2 images in .* are hidden: b/\.2\.png; remove",
        ),
        (
            ["a/1.png", ".b/2.png"],
            {},
            r"data\.path: 1 of 2 images in .* are hidden: \.b/2\.png; remove",
        ),
        (["train/a/1.png"], {"val": None}, r"data\.path: .* has the folders train; use one"),
        (["train/1.png", "bus/1.png"], {}, r"data\.path: .* has the folders bus, train; use one"),
        (
            ["train/a/1.png", "val/a/1.png"],
            {},
            r"data\.val: 0\.2 would be ignored, .* use data\.val=null",
        ),
        (
            ["train/a/1.png", "train/b/1.png", "val/a/1.png"],
            {"val": None},
            r"data\.path: 1 of the 2 classes in train/ is missing from val/: b; all",
        ),
        (
            ["train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/"],
            {"val": None},
            r"data\.path: 1 of 2 class folders of val/ without an image: b \(",
        ),
        (
            ["train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/1.png", "val/1.png"],
            {"val": None},
            r"data\.path: 1 of 5 images in .* are in no class folder: val/1\.png;",
        ),
        ([], {"channels": 3}, r"data\.mean must have one .* got \[0\.0\]; give 3"),
        ([], {"std": [1.0, 1.0]}, r"data\.std must have one .* got \[1\.0, 1\.0\]; give 1"),
    ],
)
def test_invalid_image_folders_are_rejected(
    tmp_path: Path, names: list[str], changed: dict[str, Any], message: str
) -> None:
    for name in names:
        if name.endswith("/"):
            (tmp_path / name).mkdir(parents=True)
    add(tmp_path, *(name for name in names if not name.endswith("/")))
    with pytest.raises((ValueError, SpecError), match=f"(?m)^{message}"):
        made(tmp_path, **changed)


@pytest.mark.parametrize("content", [b"", b"text", b"\0\5\26\7\0\2\0\0Mac OS X"])
def test_invalid_image_file_is_named_before_training(tmp_path: Path, content: bytes) -> None:
    root = pets(tmp_path)
    (root / "cat" / "3.png").write_bytes(content)
    with pytest.raises(
        SpecError, match=r"^data\.path: 1 of 15 .* read: cat/3\.png \((the|none).*\); "
    ):
        made(root)


def test_missing_or_nonexistent_folder_path_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"^data\.path: null; give a folder of images"):
        made(None)
    with pytest.raises(SpecError, match=r"^data\.path: \S*/nowhere is not a folder"):
        made(tmp_path / "nowhere")


def test_slow_image_file_is_named_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = pets(tmp_path)
    Image.new("L", (6000, 6000)).save(root / "cat" / "big.png")  # takes a second to decode
    for workers in (0, 1):
        data = made(root, workers=workers, slow_after=0.05)
        for part in (data.train, data.val):
            names = list(part.file_names)
            number = names.index("cat/big.png") if "cat/big.png" in names else 0
            list(part.batches([torch.tensor([number])] * 2))
        said = [line for line in capfd.readouterr().err.splitlines() if "recipe:" in line]
        name = root / "cat" / "big.png"
        assert said == [f"recipe: data.slow_after: reading {name} takes more than 0.05 s"]
