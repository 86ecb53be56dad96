from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recipe.components.data import (
    InMemory,
    balanced_subset,
    hash_files,
    hash_tensors,
    stratified_split,
)
from recipe.components.data.image_reading import channel_mean_and_std

seeds = st.integers(0, 2**32)
labels = st.lists(st.integers(0, 3), min_size=4, max_size=60)


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=100)
@given(
    counts=st.lists(st.integers(4, 30), min_size=1, max_size=5),
    fraction=st.floats(0.2, 0.8),
    seed=seeds,
)
def test_stratified_split_has_each_sample_once_and_class_fractions(
    counts: list[int], fraction: float, seed: int
) -> None:
    targets = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    targets = targets[torch.randperm(len(targets), generator=stream(seed))]
    names = [str(index) for index in range(len(counts))]
    train, val = stratified_split(targets, fraction, names, stream(seed))
    assert torch.cat([train, val]).sort().values.tolist() == list(range(len(targets)))
    assert train.tolist() == sorted(train.tolist()) and val.tolist() == sorted(val.tolist())
    for index, count in enumerate(counts):
        held = int((targets[val] == index).sum())
        assert abs(held - count * fraction) <= 0.5 + 1e-5
    again = stratified_split(targets, fraction, names, stream(seed))
    assert torch.equal(train, again[0]) and torch.equal(val, again[1])


def test_different_seed_gives_different_split() -> None:
    targets = torch.zeros(100, dtype=torch.int64)
    splits = [
        stratified_split(targets, 0.5, ["one"], stream(seed))[1].tolist() for seed in range(5)
    ]
    assert len({tuple(split) for split in splits}) == 5


@pytest.mark.parametrize(
    ("fraction", "problem"),
    [
        (0.1, "rounds to 0, which leaves none to validate on"),
        (0.9, "3, which leaves none to train"),
    ],
)
def test_class_missing_from_one_side_of_split_is_named(fraction: float, problem: str) -> None:
    targets = torch.tensor([0] * 10 + [1] * 3)  # 0.1 of 3 is 0.3, 0.9 of 3 is 2.7
    with pytest.raises(
        ValueError, match=f"^data.val: {fraction} of the 3 samples of class b .*{problem}"
    ):
        stratified_split(targets, fraction, ["a", "b"], stream(0))


@settings(max_examples=100)
@given(targets=labels.map(torch.tensor), seed=seeds, data=st.data())
def test_balanced_subset_is_as_even_as_class_sizes_allow(
    targets: Tensor, seed: int, data: st.DataObject
) -> None:
    size = data.draw(st.integers(0, len(targets)))
    chosen = balanced_subset(targets, size, stream(seed))
    assert len(set(chosen.tolist())) == size
    there, taken = targets.bincount(minlength=4), targets[chosen].bincount(minlength=4)
    unexhausted = taken[taken < there]
    assert len(unexhausted) == 0 or taken.max() - unexhausted.min() <= 1
    larger = balanced_subset(targets, min(size + 3, len(targets)), stream(seed))
    assert set(chosen.tolist()) <= set(larger.tolist())


def test_surplus_sample_of_a_balanced_subset_goes_to_a_random_class() -> None:
    targets = torch.tensor([0, 1] * 50)
    spare = {targets[balanced_subset(targets, 3, stream(seed))].sum().item() for seed in range(20)}
    assert spare == {1, 2}  # one or two of class 1


@settings(max_examples=50)
@given(batches=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=5), max_size=5))
def test_batches_hold_exactly_requested_samples_in_order(batches: list[list[int]]) -> None:
    inputs, targets = torch.arange(20.0).reshape(10, 1, 1, 2), torch.arange(10) * 10
    for transform in (None, lambda images: images * 2):
        served = list(InMemory(inputs, targets, transform).batches(map(torch.tensor, batches)))
        assert len(served) == len(batches)
        for indices, (images, labels) in zip(batches, served, strict=True):
            assert labels.tolist() == [index * 10 for index in indices]
            first = [index * 2.0 * (2 if transform else 1) for index in indices]
            assert images[:, 0, 0, 0].tolist() == first


def test_mean_and_std_are_per_channel_for_bytes_and_floats() -> None:
    values = torch.tensor([[0, 0], [255, 0]], dtype=torch.uint8).reshape(2, 2, 1, 1)
    for inputs in (values, values / 255):  # channel 0: 0 and 1; channel 1: 0 and 0
        assert channel_mean_and_std(inputs) == ((0.5, 0.0), (0.5, 0.0))


def test_mean_and_std_of_bytes_match_numpy() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 3, 8, 8), np.uint8)
    mean, std = channel_mean_and_std(torch.from_numpy(pixels))
    np.testing.assert_allclose(mean, (pixels / 255).mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, (pixels / 255).std((0, 2, 3)), rtol=1e-12)


def test_digest_depends_on_values_shape_dtype_order_and_strings() -> None:
    one = torch.tensor([[1, 2], [3, 4]])
    variants = [
        hash_tensors(one),
        hash_tensors(one + 1),
        hash_tensors(one.reshape(4)),
        hash_tensors(one.int()),
        hash_tensors(one.float()),
        hash_tensors(one.mT),
        hash_tensors(one, one),
        hash_tensors(one, "a"),
        hash_tensors("a", one),
        hash_tensors(torch.empty(0)),
        hash_tensors(torch.tensor(1)),
    ]
    assert len(set(variants)) == len(variants)
    assert hash_tensors(one.mT) == hash_tensors(one.mT.contiguous())
    assert all(len(variant) == 64 for variant in variants)


def test_file_digest_depends_on_bytes_and_names_but_not_on_location(tmp_path: Path) -> None:
    file = Path("a.png")
    (tmp_path / file).write_bytes(bytes(9000))
    first = hash_files(tmp_path, [file], full_hash_limit=9000)
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / file).write_bytes(bytes(9000))
    assert hash_files(tmp_path / "moved", [file], full_hash_limit=9000) == first
    (tmp_path / file).write_bytes(bytes(4500) + b"\1" + bytes(4499))
    assert hash_files(tmp_path, [file], full_hash_limit=9000) != first
    (tmp_path / file).rename(tmp_path / "b.png")
    assert hash_files(tmp_path, [Path("b.png")], full_hash_limit=9000) != first


def test_large_data_digest_covers_only_both_ends_of_each_file(tmp_path: Path) -> None:
    seen = {}
    for changed in (None, 0, 4095, 4096, 4903, 4904, 8999):
        content = bytearray(9000)
        if changed is not None:
            content[changed] = 1
        (tmp_path / "a.png").write_bytes(content)
        seen[changed] = hash_files(tmp_path, [Path("a.png")], full_hash_limit=8999)
    assert seen[None] == seen[4096] == seen[4903]
    assert len({seen[None], seen[0], seen[4095], seen[4904], seen[8999]}) == 5
