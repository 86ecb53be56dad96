"""data.on_bad_file=skip: a file that can't be read is left out, counted, and named."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import commands
import pytest
import torch
from damaged_images import spoil, write_pets
from run_equality import alike
from stopped_runs import PARTS

from recipe.components.data import Data
from recipe.components.data.image_folder import image_folder
from recipe.components.evaluation.plain import plain
from recipe.errors import DataError
from recipe.training import evaluation
from recipe.training.collectives import SingleProcess

HALF = (
    *commands.CPU, "tracking=none", "model.widths=[2,4]", "epochs=3", "data=image_folder",
    "data.size=8", "data.val=0.4", "data.batch_size=4", "data.eval_batch_size=3",
    "optimizer.momentum=0.9", "augment=flip_crop", "checkpoint.per=step", "checkpoint.every=1",
)  # fmt: skip
"""12 images to train on, in 3 batches an epoch, and 8 to validate."""

SKIP = "data.on_bad_file=skip"


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return write_pets(tmp_path / "pets")


def made(root: Path, **changed: Any) -> Data:
    chosen: dict[str, Any] = {"val": 0.4, "size": 8, "channels": 3, "workers": 0}
    chosen |= {"mean": [0.0] * 3, "std": [1.0] * 3, "on_bad_file": "skip", "slow_after": 10.0}
    chosen |= {"max_pixels": 5 * 10**7}
    return image_folder(torch.Generator(), path=str(root), **(chosen | changed))


def broken(root: Path) -> set[str]:
    """The names of five of twenty files that can't be read, each for another reason."""
    spoil(root / "cat" / "0.png")
    spoil(root / "dog" / "12.png")
    (root / "cat" / "3.jpg").write_bytes(b"")
    (root / "dog" / "11.jpg").write_text("no image")
    (root / "dog" / "14.png").unlink()
    (root / "dog" / "14.png").symlink_to("nowhere.png")
    return {"cat/0.png", "dog/12.png", "cat/3.jpg", "dog/11.jpg", "dog/14.png"}


@pytest.mark.parametrize("workers", [0, 3])
def test_batches_hold_only_readable_samples(pets: Path, workers: int) -> None:
    whole = made(pets).train
    names = list(whole.file_names)
    gone = [n for n, name in enumerate(names) if name in ("cat/3.jpg", "dog/14.png", "dog/15.jpg")]
    data = made(pets, workers=workers)
    for index in gone:
        (pets / names[index]).write_bytes(b"")
    order = [torch.arange(12)[start::3] for start in range(3)]
    for _ in range(2):
        served = list(data.train.batches(order))
        assert [len(inputs) for inputs, _ in served] == [
            4 - sum(index in batch.tolist() for index in gone) for batch in order
        ]
        for batch, (_, targets) in zip(order, served, strict=True):
            good = torch.tensor([index for index in batch.tolist() if index not in gone])
            assert torch.equal(targets, whole.targets[good])
    assert sorted(data.train.unreadable) == gone
    shutil.copy(pets / "dog" / "10.png", pets / names[gone[0]])  # once left out, always left out
    assert sum(len(targets) for _, targets in data.train.batches(order)) == 12 - len(gone)


def test_batch_without_readable_images_raises_data_error(pets: Path) -> None:
    data = made(pets)
    for file in (pets / "cat").iterdir():
        file.write_bytes(b"")
    with pytest.raises(DataError, match=r"^data\.path: all of a batch's images in .*cat/.*again$"):
        list(data.train.batches([torch.arange(3)]))
    with pytest.raises(DataError, match=r"^data\.path: all of a batch's images"):
        list(data.train.batches([torch.arange(3)]))  # none of them is asked for any more


def test_evaluation_uses_only_readable_samples(pets: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))

    def evaluated(data: Data) -> dict[str, float]:
        return evaluation.evaluate(
            model, data.val, torch.nn.functional.cross_entropy, forward=plain, batch_size=3,
            device=torch.device("cpu"), autocast=lambda: torch.autocast("cpu", enabled=False),
            collectives=SingleProcess(),
        )  # fmt: skip

    data = made(pets)
    ((inputs, targets),) = data.val.batches([torch.arange(8)])
    (pets / data.val.file_names[5]).write_bytes(b"")
    left = [0, 1, 2, 3, 4, 6, 7]
    with torch.no_grad():
        output = model(inputs[left])
    found = evaluated(data)
    assert found["accuracy"] == (output.argmax(1) == targets[left]).sum().item() / 7
    expected = torch.nn.functional.cross_entropy(output, targets[left]).item()
    assert found["loss"] == pytest.approx(expected, rel=1e-6)


def test_skipped_files_are_named_and_excluded_from_interval(tmp_path: Path, pets: Path) -> None:
    shutil.copytree(pets, tmp_path / "parts" / "train")
    names = {f"train/{name}" for name in broken(tmp_path / "parts" / "train")}
    shutil.copytree(pets, tmp_path / "parts" / "val")
    for name in ("cat/1.jpg", "dog/10.png"):
        (tmp_path / "parts" / "val" / name).write_bytes(b"")
        names.add(f"val/{name}")
    done = commands.run(tmp_path, *HALF, f"data.path={tmp_path / 'parts'}", "data.val=null", SKIP)
    assert (done.status, done.err) == (0, "")
    (run,) = commands.run_dirs(tmp_path)
    left_out = (run / "left_out.txt").read_text().splitlines()
    assert {line.split(" (")[0] for line in left_out} == names and len(left_out) == 7
    assert "train/cat/3.jpg (the file is empty)" in left_out
    lines = [line["metrics"] for line in commands.read_lines(run / "metrics.jsonl")]
    assert [line["data/skipped"] for line in lines if "data/skipped" in line] == [7, 7, 7]
    shares = [line["val/accuracy"] * 18 for line in lines if "val/accuracy" in line]
    assert shares == [pytest.approx(round(share)) for share in shares]
    events = commands.read_lines(run / "events.jsonl")
    assert [e["path"] for e in events if e["kind"] == "artifact"].count("left_out.txt") == 1
    assert f"7 of 40 files were left out, as they can't be read: {left_out[0]}" in done.out
    assert ", 18 samples)" in done.out


@pytest.mark.parametrize("part", ["train", "val"])
def test_part_without_readable_images_is_rejected(tmp_path: Path, pets: Path, part: str) -> None:
    for each in ("train", "val"):
        shutil.copytree(pets, tmp_path / "parts" / each)
    for path in (tmp_path / "parts" / part).glob("*/*"):
        path.write_bytes(b"")
    parts = (f"data.path={tmp_path / 'parts'}", "data.val=null", "data.eval_batch_size=20")
    done = commands.run(tmp_path, *HALF, *parts, SKIP)
    (problem,) = done.problems
    assert done.status == 2 and not (tmp_path / "outputs").exists()
    assert problem.startswith("recipe: data.path: none of 20 images in ")
    assert f"can be read: {part}/cat/" in problem


def test_class_without_readable_images_is_named_in_caution(tmp_path: Path, pets: Path) -> None:
    for part in ("train", "val"):
        shutil.copytree(pets, tmp_path / "parts" / part)
    for lost in ("train/dog", "val/cat"):
        for path in (tmp_path / "parts" / lost).iterdir():
            path.write_bytes(b"")
    parts = (f"data.path={tmp_path / 'parts'}", "data.val=null", "data.eval_batch_size=20")
    done = commands.run(tmp_path, *HALF, *parts, SKIP, "epochs=1")
    assert (done.status, done.err) == (0, "")
    cautions = [line for line in done.out.splitlines() if line.startswith("Caution of")]
    assert cautions == [
        "Caution of dog no training image could be read, so this run can't tell it from the others",
        "Caution of cat no validation image could be read, so the validation metrics don't include "
        "it",
    ]


FROZEN = (*(text for text in HALF if not text.startswith("augment")), "freeze=all_but_head", SKIP)


def test_frozen_cache_with_skipped_files_gives_identical_results(
    tmp_path: Path, pets: Path
) -> None:
    names = broken(pets)
    for file in (pets / "dog").glob("1?.jpg"):  # so that a whole batch of the files can't be read
        names.add(f"dog/{file.name}")
        file.write_bytes(b"")
    options = (*FROZEN, f"data.path={pets}")
    found = {}
    for name, cache in (("each", "off"), ("once", "auto"), ("found", "auto")):
        done = commands.run(tmp_path, *options, f"freeze.cache={cache}", "again=true")
        assert (done.status, done.err) == (0, "")
        assert ("computed once up to" in done.out) == (cache == "auto"), done.out
        found[name] = commands.run_dirs(tmp_path)[-1]
    for name in ("once", "found"):
        alike(found["each"], found[name])
        left_out = (found[name] / "left_out.txt").read_text()
        assert left_out == (found["each"] / "left_out.txt").read_text()
        assert {line.split(" (")[0] for line in left_out.splitlines()} == names


def test_unreadable_batch_ends_run_with_and_without_frozen_cache(
    tmp_path: Path, pets: Path
) -> None:
    """Of one class nothing can be read, so that an evaluation has a batch without samples."""
    for file in (pets / "dog").iterdir():
        file.write_bytes(b"")
    options = (*FROZEN, f"data.path={pets}", "data.batch_size=12", "data.eval_batch_size=4")
    ends = []
    for cache in ("off", "auto"):
        done = commands.run(tmp_path, *options, f"freeze.cache={cache}")
        ends.append((done.status, done.err.partition("; ")[0]))
    assert ends[0] == ends[1] and ends[0][0] == 1
    assert ends[0][1].startswith("recipe: data.path: all of a batch's images in ")


def test_resumed_run_skips_files_known_as_unreadable(tmp_path: Path, pets: Path) -> None:
    broken(pets)
    options = (*HALF, f"data.path={pets}", SKIP, "trust=[parts]", "clip=mine")
    ends = []
    for name in ("whole", "stopped"):
        folder = commands.project(
            tmp_path / name, {"parts.py": PARTS, "conf/clip/mine.yaml": "_target_: parts.clip\n"}
        )
        if name == "stopped":
            (folder / "signals").write_text("2 SIGINT")  # in the midst of the first epoch
            assert commands.run(folder, *options).status == 130
        assert commands.run(folder, *options).status == 0
        ends.append(commands.run_dirs(folder)[-1])
    alike(*ends)
    assert (ends[0] / "left_out.txt").read_text() == (ends[1] / "left_out.txt").read_text()
