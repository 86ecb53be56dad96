"""Augmentations: what happens to pixels and targets, and where the randomness comes from."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from resumed_runs import assert_resumes_after_a_step
from torch import Tensor

from recipe.components.augment import sample_mix_ratio
from recipe.components.augment.cutmix import cutmix
from recipe.components.augment.flip_crop import flip_crop
from recipe.components.augment.mixup import mixup
from recipe.components.augment.none import none
from recipe.components.augment.randaugment import randaugment
from recipe.components.augment.random_erasing import random_erasing
from recipe.config.spec import RunSpec
from recipe.errors import SpecError
from recipe.training.loop import train
from recipe.training.run import Run

Augment = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]

GRAY: dict[str, Any] = {"mean": [0.4], "std": [0.25]}

AUGMENTS: dict[str, Augment] = {
    "flip_crop": partial(flip_crop, padding=2, flip=0.5),
    "mixup": partial(mixup, alpha=1.0, classes=7),
    "cutmix": partial(cutmix, alpha=1.0, classes=7),
}
each_augment = pytest.mark.parametrize("augment", AUGMENTS.values(), ids=list(AUGMENTS))
mixing = pytest.mark.parametrize("mix", [mixup, cutmix])


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(batch: int, height: int = 6, width: int = 8) -> Tensor:
    """Two channels, every number only once."""
    return torch.arange(float(batch * 2 * height * width)).reshape(batch, 2, height, width)


def flat_images(batch: int, height: int = 8, width: int = 8) -> Tensor:
    """Image i is i all over."""
    return torch.arange(float(batch)).reshape(batch, 1, 1, 1).expand(batch, 1, height, width)


# all


def test_augment_none_returns_inputs_unchanged_without_randomness() -> None:
    inputs, targets, generator = images(3), torch.arange(3), stream()
    before = generator.get_state()
    out, out_targets = none(inputs, targets, generator)
    assert out is inputs and out_targets is targets
    assert torch.equal(generator.get_state(), before)


@each_augment
def test_augmentations_draw_only_from_given_generator(augment: Augment) -> None:
    inputs, targets = images(7), torch.arange(7)
    global_state = torch.get_rng_state()
    generator = stream(1)
    first, second = augment(inputs, targets, generator), augment(inputs, targets, generator)
    again = augment(inputs, targets, stream(1))
    assert torch.equal(torch.get_rng_state(), global_state)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], second[0])


@each_augment
def test_input_batch_is_not_modified(augment: Augment) -> None:
    inputs, targets = images(7), torch.arange(7)
    outs = [augment(inputs, targets, stream(seed))[0] for seed in range(5)]
    assert not all(torch.equal(out, inputs) for out in outs)
    assert torch.equal(inputs, images(7)) and torch.equal(targets, torch.arange(7))


# torchvision's, of which each image is given a draw of its own

TORCHVISIONS: dict[str, Augment] = {
    "random_erasing": partial(random_erasing, probability=0.5, scale=(0.1, 0.3), ratio=(0.5, 2.0)),
    "randaugment": partial(randaugment, operations=2, magnitude=15, **GRAY),
}


def photographs(batch: int, size: int = 8) -> Tensor:
    """Pixels of 8 bits in one channel, normalised."""
    pixels = torch.randint(0, 256, (batch, 1, size, size), generator=stream(7))
    return (pixels / 255 - 0.4) / 0.25


@pytest.mark.usefixtures("torchvision")
@pytest.mark.parametrize("augment", TORCHVISIONS.values(), ids=list(TORCHVISIONS))
def test_torchvision_augments_use_the_given_generator_and_keep_inputs(augment: Augment) -> None:
    inputs, targets = photographs(9), torch.arange(9)
    global_state, generator = torch.get_rng_state(), stream(1)
    first, second = (augment(inputs, targets, generator)[0] for _ in range(2))
    torch.rand(5)  # where the global stream stands is nothing to it
    again, same_targets = augment(inputs, targets, stream(1))
    torch.set_rng_state(global_state)
    augment(inputs, targets, stream(2))
    assert torch.equal(torch.get_rng_state(), global_state)
    assert torch.equal(first, again) and not torch.equal(first, second)
    assert same_targets is targets and torch.equal(inputs, photographs(9))
    assert first.shape == inputs.shape and first.dtype == torch.float32


@pytest.mark.usefixtures("torchvision")
def test_random_erasing_fills_rectangle_with_given_size_and_mean_colour() -> None:
    """A quarter of 8 x 8 pixels, as high as wide: 4 x 4."""
    inputs = torch.ones(200, 2, 8, 8)
    erase = partial(random_erasing, scale=(0.25, 0.25), ratio=(1.0, 1.0))
    out, _ = erase(inputs, torch.zeros(200).long(), stream(), probability=1.0)
    corners = set()
    for image in out:
        assert torch.equal(image[0], image[1])
        rows, columns = (image[0] == 0).nonzero().unbind(1)
        corner = (int(rows.min()), int(columns.min()))
        corners.add(corner)
        expected = torch.ones(8, 8)
        expected[corner[0] : corner[0] + 4, corner[1] : corner[1] + 4] = 0
        assert torch.equal(image[0], expected)
    assert len(corners) > 20  # of 5 * 5 places
    out, _ = erase(inputs, torch.zeros(200).long(), stream(), probability=0.25)
    assert 30 <= (out == 0).any(dim=(1, 2, 3)).sum() <= 70  # 50 expected, standard deviation 6.1


@pytest.mark.usefixtures("torchvision")
def test_randaugment_operates_on_unnormalised_pixels() -> None:
    """At its strongest, on an image that is 100 of 255 all over, in whose middle only brightness
    (times 1.9 or 0.1), posterize (to 4 bits: 96) and solarize (turned: 155) can be seen."""
    inputs = torch.full((700, 1, 9, 9), (100 / 255 - 0.4) / 0.25)
    out, _ = randaugment(inputs, torch.zeros(700).long(), stream(), operations=1, magnitude=30,
                         **GRAY)  # fmt: skip
    middle = ((out[:, 0, 4, 4] * 0.25 + 0.4) * 255).round().int().tolist()
    counts = {value: middle.count(value) for value in set(middle)}
    assert sorted(counts) == [10, 96, 100, 155, 190]
    for value in (96, 155):  # one of 14 operations: 50 expected, standard deviation 6.8
        assert 25 <= counts[value] <= 75
    assert 25 <= counts[10] + counts[190] <= 75


@pytest.mark.usefixtures("torchvision")
def test_randaugment_identity_operations_return_the_input() -> None:
    inputs = photographs(60)
    out, _ = randaugment(inputs, torch.zeros(60).long(), stream(), operations=1, magnitude=0,
                         **GRAY)  # fmt: skip
    # all but solarize, autocontrast and equalize: 47 of 60 expected, standard deviation 3.2
    alike = torch.isclose(out, inputs, atol=1e-5).all(dim=(1, 2, 3)).sum()
    assert 35 <= alike < 60


@pytest.mark.usefixtures("torchvision")
def test_randaugment_undoes_normalisation_with_the_data_mean_and_std(
    built: Callable[..., Run],
) -> None:
    run = built("augment=randaugment", *DIGITS)
    given = inspect.unwrap(run.augment).keywords
    assert (given["mean"], given["std"]) == (list(run.data.mean), list(run.data.std))


@pytest.mark.usefixtures("torchvision")
@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (("augment=randaugment",),
         r"augment=randaugment needs images in which .* between -\d.* and \d.*; use augment=.*"),
        (("augment=randaugment", "data.channels=2"),
         "augment=randaugment needs images of 1 or 3 channels, and a mean and a std for each "
         "channel, got 2, 2 and 2; use augment=flip_crop"),
        (("augment=random_erasing", "augment.scale=[0.3,0.1]"),
         r"augment.scale must be a range from low to high, got \[0.3, 0.1\]; use \[0.1, 0.3\]"),
    ],
)  # fmt: skip
def test_unsupported_torchvision_augmentation_settings_are_rejected(
    built: Callable[..., Run], overrides: tuple[str, ...], problem: str
) -> None:
    with pytest.raises(SpecError) as caught:
        built(*overrides)
    (told,) = caught.value.problems
    assert re.fullmatch(problem, told), told


@pytest.mark.parametrize("option", TORCHVISIONS)
def test_augmentations_without_torchvision_raise_with_install_hint(
    built: Callable[..., Run], option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(SpecError) as caught:
        built(f"augment={option}")
    (told,) = caught.value.problems
    assert told.startswith(f"augment={option} needs torchvision, and it can't be imported (")
    assert told.endswith("; install the extra: pip install torch-recipe[vision]")


DIGITS = ("data=digits", "data.size=8", "data.train_size=16", "data.batch_size=8")


@pytest.mark.usefixtures("torchvision")
@pytest.mark.parametrize("option", TORCHVISIONS)
def test_mid_epoch_resume_draws_same_augmentations(
    small: Callable[..., RunSpec], option: str
) -> None:
    assert_resumes_after_a_step(small(f"augment={option}", *DIGITS))


@pytest.mark.usefixtures("torchvision")
@pytest.mark.parametrize("option", TORCHVISIONS)
def test_validation_images_are_not_augmented(built: Callable[..., Run], option: str) -> None:
    """With steps of nothing, both runs evaluate the same weights."""
    still = (*DIGITS, "optimizer.lr=0", "model.batchnorm=false", "epochs=1")
    plain, changed = (
        {p.is_epoch_end: p.metrics for p in train(built(*still, f"augment={augment}"))}
        for augment in ("none", option)
    )
    assert changed[True]["val/loss"] == plain[True]["val/loss"]
    assert changed[False]["train/loss"] != plain[False]["train/loss"]


# flip_crop


def test_flip_mirrors_horizontally_with_the_given_probability() -> None:
    inputs, targets = images(400, 1, 3), torch.arange(400)
    out, out_targets = flip_crop(inputs, targets, stream(), padding=0, flip=0.25)
    mirrored = torch.tensor([torch.equal(a, b.flip(-1)) for a, b in zip(out, inputs, strict=True)])
    kept = torch.tensor([torch.equal(a, b) for a, b in zip(out, inputs, strict=True)])
    assert torch.equal(mirrored, ~kept)
    assert 70 <= mirrored.sum() <= 130  # 100 expected, standard deviation 8.7
    assert torch.equal(out_targets, targets)
    always, _ = flip_crop(inputs, targets, stream(), padding=0, flip=1.0)
    assert torch.equal(always, inputs.flip(-1))


def test_crop_shifts_images_independently_with_reflected_border() -> None:
    rows = torch.tensor([[0, 1, 2], [3, 4, 5], [6, 7, 8]])
    # Reflected by one pixel, so that the window may start at (0, 0) ... (2, 2).
    padded = torch.tensor(
        [[4, 3, 4, 5, 4], [1, 0, 1, 2, 1], [4, 3, 4, 5, 4], [7, 6, 7, 8, 7], [4, 3, 4, 5, 4]]
    )
    windows = [padded[y : y + 3, x : x + 3].tolist() for y in range(3) for x in range(3)]
    inputs = rows.float().expand(200, 2, 3, 3)
    out, _ = flip_crop(inputs, torch.zeros(200).long(), stream(), padding=1, flip=0.0)
    assert torch.equal(out[:, 0], out[:, 1])  # channels move together
    seen = [windows.index(image) for image in out[:, 0].int().tolist()]
    assert set(seen) == set(range(9))


def test_flip_crop_without_flip_and_padding_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"^augment\.padding and augment\.flip .*augment=none$"):
        flip_crop(images(2), torch.arange(2), stream(), padding=0, flip=0.0)


def test_padding_as_large_as_image_raises() -> None:
    with pytest.raises(
        ValueError, match=r"^augment\.padding must be below .* 6 x 8 .* got 6; use at most 5$"
    ):
        flip_crop(images(2), torch.arange(2), stream(), padding=6, flip=0.5)


# mixup and cutmix


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), alpha=st.floats(0.1, 4.0), batch=st.integers(1, 6))
def test_mixup_blends_pixels_and_targets_in_the_same_proportion(
    seed: int, alpha: float, batch: int
) -> None:
    targets = torch.arange(batch)
    out, probabilities = mixup(
        flat_images(batch), targets, stream(seed), alpha=alpha, classes=batch + 2
    )
    # Image i is i all over and of class i: its pixels are the mean class under its target.
    mean_class = probabilities @ torch.arange(batch + 2.0)
    torch.testing.assert_close(out, mean_class.reshape(-1, 1, 1, 1).expand_as(out))
    torch.testing.assert_close(probabilities.sum(1), torch.ones(batch))


def test_mixup_interpolates_between_images() -> None:
    out, _ = mixup(flat_images(6), torch.arange(6), stream(3), alpha=4.0, classes=6)
    assert not torch.allclose(out, out.round(), atol=1e-3)


@settings(max_examples=50)
@given(
    seed=st.integers(0, 10**6),
    alpha=st.floats(0.1, 4.0),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
)
def test_cutmix_targets_equal_pixel_fractions(
    seed: int, alpha: float, height: int, width: int
) -> None:
    targets = torch.arange(5)
    inputs = flat_images(5, height, width)
    out, probabilities = cutmix(inputs, targets, stream(seed), alpha=alpha, classes=6)
    parts = torch.stack([(out == i).float().mean((1, 2, 3)) for i in range(6)], dim=1)
    torch.testing.assert_close(probabilities, parts)


def test_cutmix_pastes_one_rectangle_at_same_position() -> None:
    inputs = images(5, 8, 8)
    for seed in range(20):
        out, probabilities = cutmix(inputs, torch.arange(5), stream(seed), alpha=1.0, classes=5)
        other = probabilities.fill_diagonal_(0).argmax(1)  # whose rectangle it is
        changed = (out != inputs)[:, 0]
        for i in range(5):
            rows, columns = changed[i].any(1).nonzero(), changed[i].any(0).nonzero()
            if len(rows):
                box = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
                assert changed[i][box].all()
                assert torch.equal(out[i][:, *box], inputs[other[i]][:, *box])


@mixing
def test_mixed_targets_are_probabilities_of_the_given_width(mix: Callable[..., Batch]) -> None:
    _, probabilities = mix(images(4), torch.tensor([0, 1, 1, 2]), stream(), alpha=1.0, classes=9)
    assert probabilities.shape == (4, 9)
    assert probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities.sum(1), torch.ones(4))


@mixing
def test_mixing_already_mixed_targets_is_rejected(mix: Callable[..., Batch]) -> None:
    with pytest.raises(ValueError, match=r"^augment: only class indices .* got \(2, 9\)"):
        mix(images(2), torch.zeros(2, 9), stream(), alpha=1.0, classes=9)


@pytest.mark.parametrize(("alpha", "variance"), [(1.0, 1 / 12), (0.2, 1 / 5.6)])
def test_mix_ratios_have_the_moments_of_the_beta_distribution(
    alpha: float, variance: float
) -> None:
    generator = stream()
    shares = torch.tensor([sample_mix_ratio(alpha, generator) for _ in range(4000)])
    assert shares.mean().item() == pytest.approx(0.5, abs=0.03)
    assert shares.var().item() == pytest.approx(variance, abs=0.01)  # 1 / (4 * (2 * alpha + 1))


Batch = tuple[Tensor, Tensor]
