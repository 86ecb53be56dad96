import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from recipe.components.data import Data
from recipe.components.data.digits import digits
from recipe.components.data.image_reading import crop_and_resize, normalise, read_image

ALL = list(range(10))
COUNTS = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # images of each digit
HELD = [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]  # a fifth of each, rounded


def made(seed: int = 0, **changed: Any) -> Data:
    chosen: dict[str, Any] = {"labels": ALL, "size": 32, "channels": 1, "val": 0.2}
    chosen |= {"train_size": None} | changed
    return digits(torch.Generator().manual_seed(seed), **chosen)


def pixels(data: Data) -> torch.Tensor:
    """What the 8 x 8 pixels were, in 0..16, of all images."""
    inputs = torch.cat([part.inputs for part in (data.train, data.val)])  # type: ignore[attr-defined]
    shape = torch.tensor(data.std)[:, None, None], torch.tensor(data.mean)[:, None, None]
    return (inputs * shape[0] + shape[1]) * 16


def images(data: Data, target: int) -> set[tuple[int, ...]]:
    chosen = torch.cat([data.train.targets, data.val.targets]) == target
    return {tuple(image) for image in pixels(data)[chosen].round().int().flatten(1).tolist()}


def test_digits_images_match_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    theirs = load_digits()
    data = made(size=8)
    ours = pixels(data).round().int().reshape(-1, 64)
    targets = torch.cat([data.train.targets, data.val.targets])
    rows = sorted(
        [*image, label] for image, label in zip(ours.tolist(), targets.tolist(), strict=True)
    )
    expected = np.column_stack([theirs.data, theirs.target]).astype(int)
    assert sorted(rows) == sorted(expected.tolist())
    torch.testing.assert_close(pixels(data), pixels(data).round(), atol=1e-4, rtol=0)


def test_one_fifth_of_each_digit_is_held_out() -> None:
    data = made()
    assert data.val.targets.bincount().tolist() == HELD
    assert data.train.targets.bincount().tolist() == [
        count - held for count, held in zip(COUNTS, HELD, strict=True)
    ]
    assert data.classes == tuple("0123456789")


def test_digits_are_resized_and_normalised_by_the_training_split() -> None:
    for channels in (1, 3):
        data = made(channels=channels, size=12)
        (train, _), (val, _) = (
            next(iter(part.batches([torch.arange(len(part))]))) for part in (data.train, data.val)
        )
        assert train.shape == (1438, channels, 12, 12) and val.shape == (359, channels, 12, 12)
        assert train.dtype == torch.float32 and data.train.targets.dtype == torch.int64
        assert (data.channels, data.size) == (channels, (12, 12))
        torch.testing.assert_close(train.mean((0, 2, 3)), torch.zeros(channels), atol=1e-5, rtol=0)
        torch.testing.assert_close(train.std((0, 2, 3)), torch.ones(channels), atol=1e-4, rtol=0)
        assert torch.equal(train, train[:, :1].expand_as(train))


def test_digit_target_is_position_in_labels() -> None:
    data = made(labels=[7, 2])
    assert data.classes == ("7", "2")
    assert data.train.targets.bincount().tolist() == [COUNTS[7] - HELD[7], COUNTS[2] - HELD[2]]
    assert images(made(labels=[7, 2], size=8), 0) == images(made(size=8), 7)
    assert images(made(labels=[7, 2], size=8), 1) == images(made(size=8), 2)


def test_low_and_high_digits_share_no_image() -> None:
    low, high = (made(labels=part, size=8) for part in (ALL[:5], ALL[5:]))
    low_images, high_images = (
        set.union(*(images(part, index) for index in range(5))) for part in (low, high)
    )
    assert len(low_images) == sum(COUNTS[:5]) and len(high_images) == sum(COUNTS[5:])
    assert not low_images & high_images


@settings(max_examples=10)
@given(size=st.integers(10, 1438), seed=st.integers(0, 2**32))
def test_small_train_size_is_balanced_and_keeps_the_validation_split(size: int, seed: int) -> None:
    few, all_of_them = made(seed, train_size=size, size=8), made(seed, size=8)
    counts = few.train.targets.bincount(minlength=10)
    assert counts.sum() == size == len(few.train)
    assert size > 1390 or counts.max() - counts.min() <= 1  # the rarest digit has 139 to train on
    assert torch.equal(few.val.targets, all_of_them.val.targets)
    ours, theirs = pixels(few)[size:], pixels(all_of_them)[1438:]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_digits_digest_depends_on_the_seed_and_every_setting() -> None:
    variants: list[dict[str, Any]] = [
        {},
        {"seed": 1},
        {"labels": ALL[:5]},
        {"labels": ALL[::-1]},
        {"size": 16},
        {"channels": 3},
        {"val": 0.3},
        {"train_size": 100},
    ]
    digests = [made(**variant).digest for variant in variants]
    assert len(set(digests)) == len(variants)
    assert made().digest == digests[0]


def test_digit_image_preprocessing_matches_training_inputs(tmp_path: Path) -> None:
    for channels in (1, 3):
        data, small = made(channels=channels), made(channels=channels, size=8)
        inputs = data.train.inputs  # type: ignore[attr-defined]
        worst = 0.0
        for index in range(0, 1438, 100):
            picture = (pixels(small)[index, 0].round() * 255 / 16).round().to(torch.uint8)
            Image.fromarray(picture.numpy()).save(tmp_path / "digit.png")
            image = crop_and_resize(
                read_image(tmp_path / "digit.png", channels=channels), data.size
            )
            predicted_on = normalise(image, mean=data.mean, std=data.std)
            worst = max(worst, (predicted_on - inputs[index]).abs().max().item())
        # a picture's values are rounded by half a step of 1 / 255 at most, and so are their means
        assert 0 < worst <= 0.5 / 255 / data.std[0] + 1e-5


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": [1, 2, 1]}, r"data\.labels must not have duplicates, got \[1, 2, 1\]"),
        (
            {"train_size": 9},
            r"data\.train_size must be from 10 .* to 1438 .*, got 9; use null for all",
        ),
        ({"train_size": 1439}, r"data\.train_size must be from 10 .* got 1439"),
        ({"val": 0.001}, r"data\.val: 0\.001 of the 178 samples of class 0 rounds to 0"),
    ],
)
def test_invalid_digits_settings_are_rejected(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        made(**changed)


def test_digits_load_in_less_than_a_third_of_a_second() -> None:
    made()
    start = time.process_time()
    made()
    assert time.process_time() - start < 0.3
