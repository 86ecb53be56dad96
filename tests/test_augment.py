"""Augmentations: what happens to pixels and targets, and where the randomness comes from."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recipe.augment import draw_share
from recipe.augment.cutmix import cutmix
from recipe.augment.flip_crop import flip_crop
from recipe.augment.mixup import mixup
from recipe.augment.none import none

Augment = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]

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


def test_none_gives_back_what_it_got_and_draws_nothing() -> None:
    inputs, targets, generator = images(3), torch.arange(3), stream()
    before = generator.get_state()
    out, out_targets = none(inputs, targets, generator)
    assert out is inputs and out_targets is targets
    assert torch.equal(generator.get_state(), before)


@each_augment
def test_all_randomness_comes_from_the_given_stream(augment: Augment) -> None:
    inputs, targets = images(7), torch.arange(7)
    global_state = torch.get_rng_state()
    generator = stream(1)
    first, second = augment(inputs, targets, generator), augment(inputs, targets, generator)
    again = augment(inputs, targets, stream(1))
    assert torch.equal(torch.get_rng_state(), global_state)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], second[0])


@each_augment
def test_the_given_batch_is_not_changed(augment: Augment) -> None:
    inputs, targets = images(7), torch.arange(7)
    outs = [augment(inputs, targets, stream(seed))[0] for seed in range(5)]
    assert not all(torch.equal(out, inputs) for out in outs)
    assert torch.equal(inputs, images(7)) and torch.equal(targets, torch.arange(7))


# flip_crop


def test_flip_mirrors_left_to_right_with_its_probability() -> None:
    inputs, targets = images(400, 1, 3), torch.arange(400)
    out, out_targets = flip_crop(inputs, targets, stream(), padding=0, flip=0.25)
    mirrored = torch.tensor([torch.equal(a, b.flip(-1)) for a, b in zip(out, inputs, strict=True)])
    kept = torch.tensor([torch.equal(a, b) for a, b in zip(out, inputs, strict=True)])
    assert torch.equal(mirrored, ~kept)
    assert 70 <= mirrored.sum() <= 130  # 100 expected, standard deviation 8.7
    assert torch.equal(out_targets, targets)
    always, _ = flip_crop(inputs, targets, stream(), padding=0, flip=1.0)
    assert torch.equal(always, inputs.flip(-1))


def test_crop_shifts_each_image_by_its_own_draw_and_reflects_the_border() -> None:
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


def test_flip_crop_refuses_to_do_nothing() -> None:
    with pytest.raises(ValueError, match=r"^augment\.padding and augment\.flip .*augment=none$"):
        flip_crop(images(2), torch.arange(2), stream(), padding=0, flip=0.0)


def test_a_padding_as_large_as_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^augment\.padding must be below 6, .* 6 x 8 .* got 6$"):
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


def test_mixup_really_blends() -> None:
    out, _ = mixup(flat_images(6), torch.arange(6), stream(3), alpha=4.0, classes=6)
    assert not torch.allclose(out, out.round(), atol=1e-3)


@settings(max_examples=50)
@given(
    seed=st.integers(0, 10**6),
    alpha=st.floats(0.1, 4.0),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
)
def test_cutmix_targets_are_the_parts_of_the_pixels(
    seed: int, alpha: float, height: int, width: int
) -> None:
    targets = torch.arange(5)
    inputs = flat_images(5, height, width)
    out, probabilities = cutmix(inputs, targets, stream(seed), alpha=alpha, classes=6)
    parts = torch.stack([(out == i).float().mean((1, 2, 3)) for i in range(6)], dim=1)
    torch.testing.assert_close(probabilities, parts)


def test_cutmix_pastes_one_rectangle_in_place() -> None:
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
def test_targets_that_are_mixed_already_are_refused(mix: Callable[..., Batch]) -> None:
    with pytest.raises(ValueError, match=r"^augment: only class indices .* got \(2, 9\)"):
        mix(images(2), torch.zeros(2, 9), stream(), alpha=1.0, classes=9)


@pytest.mark.parametrize(("alpha", "variance"), [(1.0, 1 / 12), (0.2, 1 / 5.6)])
def test_shares_have_the_moments_of_their_beta_distribution(alpha: float, variance: float) -> None:
    generator = stream()
    shares = torch.tensor([draw_share(alpha, generator) for _ in range(4000)])
    assert shares.mean().item() == pytest.approx(0.5, abs=0.03)
    assert shares.var().item() == pytest.approx(variance, abs=0.01)  # 1 / (4 * (2 * alpha + 1))


Batch = tuple[Tensor, Tensor]
