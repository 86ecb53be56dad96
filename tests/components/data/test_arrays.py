from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recipe.components.data import Data, Split
from recipe.components.data.arrays import arrays
from recipe.errors import SpecError

Y = np.array([0, 1, 2] * 4)
X = np.arange(12 * 2 * 2, dtype=np.uint8).reshape(12, 2, 2)  # image n holds 4n to 4n + 3


def made(folder: Path, seed: int = 0, **found: Any) -> Data:
    settings = {name: found.pop(name) for name in ("val", "layout", "white") if name in found}
    np.savez(folder / "file.npz", **found)
    chosen: dict[str, Any] = {"layout": "auto", "white": "auto", "val": None} | settings
    return arrays(torch.Generator().manual_seed(seed), path=str(folder / "file.npz"), **chosen)


def raw(data: Data, part: str = "train") -> torch.Tensor:
    """The inputs as they were before normalisation, black 0 and white 1."""
    split: Split = getattr(data, part)
    ((inputs, _),) = split.batches([torch.arange(len(split))])
    assert inputs.dtype == torch.float32
    return inputs * torch.tensor(data.std)[:, None, None] + torch.tensor(data.mean)[:, None, None]


def test_split_holds_out_fraction_of_each_class_and_keeps_labels(tmp_path: Path) -> None:
    data = made(tmp_path, x=X, y=Y, val=0.25)
    assert data.val.targets.bincount().tolist() == [1, 1, 1]
    assert data.train.targets.bincount().tolist() == [3, 3, 3]
    images = torch.cat([raw(data), raw(data, "val")])[:, 0, 0, 0] * 255
    numbers = (images / 4).round().int().tolist()
    assert sorted(numbers) == list(range(12))
    targets = torch.cat([data.train.targets, data.val.targets])
    assert targets.tolist() == [number % 3 for number in numbers]
    assert data.classes == ("0", "1", "2") and data.test is None


def test_arrays_with_given_splits_are_kept_unchanged(tmp_path: Path) -> None:
    parts: dict[str, Any] = {"x_train": X[:6], "y_train": Y[:6], "x_val": X[6:9], "y_val": Y[6:9]}
    data = made(tmp_path, **parts, x_test=X[9:], y_test=Y[9:], classes=np.array(["a", "b", "c"]))
    assert data.classes == ("a", "b", "c") and data.test is not None
    for part, expected in (("train", X[:6]), ("val", X[6:9]), ("test", X[9:])):
        torch.testing.assert_close(raw(data, part)[:, 0], torch.from_numpy(expected) / 255)
    assert data.test.targets.tolist() == [0, 1, 2]


def test_bytes_are_normalised_by_training_statistics(tmp_path: Path) -> None:
    x = np.array([0, 255, 0, 255], np.uint8)[:, None, None].repeat(4, 1)
    data = made(tmp_path, x_train=x, y_train=Y[:4], x_val=x[:3] + 51, y_val=Y[:3])
    assert (data.mean, data.std) == ((0.5,), (0.5,))
    ((val, _),) = data.val.batches([torch.tensor([0])])
    torch.testing.assert_close(val, torch.full((1, 1, 4, 1), -0.6))  # (0.2 - 0.5) / 0.5
    assert data.train.inputs.dtype == torch.uint8  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", ">f4"])
def test_float_arrays_are_not_rescaled(tmp_path: Path, kind: str) -> None:
    x = np.array([-3.0, 0.0, 3.0], kind).repeat(4)[:, None, None]
    data = made(tmp_path, x_train=x, y_train=Y, x_val=x, y_val=Y)
    assert data.mean == (0.0,) and data.std[0] == pytest.approx(6**0.5)
    torch.testing.assert_close(
        raw(data)[:, 0, 0, 0], torch.tensor([-3.0, 0, 3]).repeat_interleave(4)
    )


@pytest.mark.parametrize(
    ("high", "given", "white"),
    [(1, "auto", 1), (255, "auto", 255), (128, "auto", 255), (127, "auto", None),
     (256, "auto", None), (256, 1023, 1023), (255, 1, 1)],
)  # fmt: skip
def test_mean_and_std_are_scaled_so_white_is_1(
    tmp_path: Path, high: float, given: float | str, white: float | None
) -> None:
    x = np.array([0.0, high, 0.0, high], np.float32)[:, None, None].repeat(4, 1)
    data = made(tmp_path, x_train=x, y_train=Y[:4], x_val=x[:3], y_val=Y[:3], white=given)
    assert data.has_known_white == (white is not None)
    half = pytest.approx(high / 2 / (white or 1))
    assert [*data.mean, *data.std] == [half, half]
    ((val, _),) = data.val.batches([torch.tensor([0, 1])])
    torch.testing.assert_close(val[:, 0, 0, 0], torch.tensor([-1.0, 1.0]))


def test_white_setting_is_rejected_for_uint8_arrays(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"^data\.white: 255 would be ignored, as x is uint8"):
        made(tmp_path, x_train=X, y_train=Y, x_val=X, y_val=Y, white=255)


@pytest.mark.parametrize(
    ("shape", "layout", "channels", "size"),
    [
        ((12, 4, 5), "auto", 1, (4, 5)),
        ((12, 3, 4, 5), "auto", 3, (4, 5)),
        ((12, 4, 5, 3), "auto", 3, (4, 5)),
        ((12, 4, 5, 1), "auto", 1, (4, 5)),
        ((12, 3, 4, 3), "chw", 3, (4, 3)),
        ((12, 3, 4, 3), "hwc", 3, (3, 4)),
        ((12, 2, 4, 5), "chw", 2, (4, 5)),
    ],
)
def test_images_of_any_layout_are_converted_to_channels_first(
    tmp_path: Path, shape: tuple[int, ...], layout: str, channels: int, size: tuple[int, int]
) -> None:
    x = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    data = made(tmp_path, x_train=x, y_train=Y, x_val=x, y_val=Y, layout=layout)
    assert (data.channels, data.size) == (channels, size)
    expected = torch.from_numpy(x) / 255
    if len(shape) == 3:
        expected = expected[:, None]
    elif shape[1:] != (channels, *size) or layout == "hwc":
        expected = expected.permute(0, 3, 1, 2)
    torch.testing.assert_close(raw(data), expected)


def test_arrays_digest_depends_on_data_split_and_names(tmp_path: Path) -> None:
    first = made(tmp_path, x=X, y=Y, val=0.25).digest
    assert made(tmp_path, x=X, y=Y, val=0.25).digest == first
    variants = [
        made(tmp_path, x=X, y=Y, val=0.25, seed=1),
        made(tmp_path, x=X, y=Y, val=0.5),
        made(tmp_path, x=X + 1, y=Y, val=0.25),
        made(tmp_path, x=X, y=Y[::-1], val=0.25),
        made(tmp_path, x=X / 255, y=Y, val=0.25),
        made(tmp_path, x=X, y=Y, val=0.25, classes=np.array(["a", "b", "c"])),
        made(tmp_path, x=X, y=Y, val=0.25, x_test=X, y_test=Y),
    ]
    assert len({first, *(data.digest for data in variants)}) == 8


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"x": X}, r"data\.path: there is no y; there are x \(in .*file\.npz\)$"),
        ({"y": Y}, r"data\.path: there is no x; there are y \("),
        ({"a": X}, r"data\.path: there is no x and no y; there are no others"),
        ({"x": X, "x_train": X, "y": Y}, r"data\.path: .* has both x and x_train"),
        (
            {"x_train": X, "y_train": Y, "x_val": X},
            r"data\.path: there is no y_val; there are x_train, x_val, y_train ",
        ),
        ({"x": X, "y": Y}, r"data\.val: null needs x_val .* such as data\.val=0\.2"),
        (
            {"x_train": X, "y_train": Y, "x_val": X, "y_val": Y, "val": 0.2},
            r"data\.val: 0\.2 would be ignored, .* use data\.val=null",
        ),
        ({"x": X[:6], "y": Y}, r"data\.path: x has shape \(6, 2, 2\), y \(12,\); .* same n"),
        (
            {"x": X[:0], "y": Y[:0]},
            r"data\.path: x has shape \(0, 2, 2\), y \(0,\); .* no axis of size 0",
        ),
        ({"x": np.uint8(1), "y": Y}, r"data\.path: x has shape \(\), y \(12,\)"),
        (
            {"x": X, "y": Y - 1},
            r"data\.path: 4 of 12 labels in y are negative, such as -1; number ",
        ),
        ({"x": X, "y": Y * 1.0}, r"data\.path: y is float64 .* labels are integers"),
        ({"x": X, "y": Y > 0}, r"data\.path: y is bool .* labels are integers"),
        ({"x": X, "y": Y[:, None]}, r"data\.path: y is int64 of shape \(12, 1\)"),
        ({"x": X.astype(int), "y": Y}, r"data\.path: x is int64; give uint8 .* or floats"),
        ({"x": X + np.inf, "y": Y}, r"data\.path: 48 of 48 values in x are NaN, infinite "),
        ({"x": X * 0, "y": Y, "val": 0.25}, r"data\.path: channel 0 .* is constant"),
        (
            {"x": X, "y": Y * 2},
            r"data\.path: y has no sample of 2 of the labels 0 to 4, such as 1; ",
        ),
        (
            {"x": X.astype(object), "y": Y},
            r"data\.path: x of .*file\.npz can't be read: it contains Python objects, ",
        ),
        ({"x": X.reshape(12, 4), "y": Y}, r"data\.layout: auto doesn't fit .*\(12, 4\)"),
        ({"x": X, "y": Y, "layout": "chw"}, r"data\.layout: chw doesn't fit .*\(12, 2, 2\)"),
        ({"x": X.reshape(12, 1, 4, 1), "y": Y}, r"data\.layout: auto can't find .*4, 1\)"),
        ({"x": X.reshape(12, 2, 2, 1).repeat(2, 3), "y": Y}, r"data\.layout: auto can't find"),
        ({"x": X, "y": Y, "classes": np.array(["a"])}, r"data\.path: classes has 1 names for"),
        ({"x": X, "y": Y, "classes": np.array(list("aab"))}, r"data\.path: .* distinct strings"),
        ({"x": X, "y": Y, "classes": np.arange(3)}, r"data\.path: classes is int64"),
        (
            {"x_train": X, "y_train": Y, "x_val": X / 1.0, "y_val": Y},
            r"data\.path: training images are uint8 \(2, 2\), those in x_val are float64 \(",
        ),
        (
            {"x_train": X, "y_train": Y, "x_val": X, "y_val": Y + 1},
            r"data\.path: 4 of 12 labels in y_val are 3 or more, such as 3, which ",
        ),
    ],
)
def test_inconsistent_npz_files_are_rejected_in_one_line(
    tmp_path: Path, found: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValueError, SpecError), match=f"(?m)^{message}"):
        made(tmp_path, **found)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"", "it is empty"),
        (b"text", "."),
        (b"PK\3\4text", "its end is missing"),
    ],
)
def test_unreadable_npz_file_raises_with_its_path(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    file = tmp_path / "other.npz"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"^data\.path: .*other\.npz is not a readable \.npz: .*{reason}"
    ):
        arrays(torch.Generator(), path=str(file), layout="auto", white="auto", val=0.2)


def test_unnamed_array_and_missing_path_are_rejected(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", X)
    with pytest.raises(
        ValueError, match=r"^data\.path: .*single array without a name \(\.npy\); .*savez"
    ):
        arrays(
            torch.Generator(), path=str(tmp_path / "one.npy"), layout="auto", white="auto", val=0.2
        )
    with pytest.raises(ValueError, match=r"^data\.path: null; give an \.npz file"):
        arrays(torch.Generator(), path=None, layout="auto", white="auto", val=0.2)
